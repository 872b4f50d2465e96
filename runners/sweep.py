"""`blockgraph sweep`: a study file to a directory of runs, of which only what is missing or failed is run."""

import argparse
import sys
from pathlib import Path

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.errors import Place, Problem, SpecError
from runners import study as reader
from runners.outcome import BAD_INPUT, DISK, STOPPED, TAKEN
from runners.plan import count
from runners.progress import say
from runners.rundir import Taken
from runners.stop import Stop
from runners.studies import cluster, estimate, file
from runners.studies.board import Board
from runners.studies.config import Slurm
from runners.studies.directory import StudyDir, claim
from runners.studies.file import StudyFile
from runners.studies.local import Local, Wanted, prepared
from runners.studies.search import Search
from runners.studies.summary import edges, summary
from runners.train import DISK_FAULTS

FAILED = 76
DESCRIPTION = """Run every cell of a study, a few at once. The same command goes on where it stopped: it runs only what
is missing or failed. A cell that diverges ends early, and keeps its curve and its reason."""
EPILOG = f"""example:
  blockgraph sweep specs/studies/smoke.yaml --dry-run
  blockgraph sweep specs/studies/table3-proxy.yaml --jobs 2
  blockgraph sweep specs/studies/table3-proxy.yaml --jobs 2 --max-lr
  blockgraph sweep specs/studies/table3.yaml --engine commands | parallel -j 8

exit codes:
  0   every cell is finished or diverged; with another engine: every other cell is handed over
  1   the study, a spec, the data or the directory is at fault; nothing was run
  2   wrong usage
  {TAKEN}  another process is writing the directory; its number and host are told
  {DISK}  the disk is full or cannot be written; what is there stands, and the same command goes on
  {STOPPED}  stopped by Ctrl-C, SIGTERM or SIGUSR1; the same command goes on
  {FAILED}  some cells failed, and all others have ended; the same command tries them again
"""


def command(arguments: list[str]) -> int:
    """Run the grid of a study, or search the highest stable learning rates.

    Returns the exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        return _sweep(options)
    except SpecError as error:
        print(error, file=sys.stderr)
        return TAKEN if isinstance(error, Taken) else BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        print(f"{error.filename}: error: {error.strerror}; the same command goes on", file=sys.stderr)
        return DISK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph sweep",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="STUDY.yaml", type=Path, help="the study file")
    parser.add_argument("--out", metavar="DIR", type=Path, help="directory of the study (default: runs/NAME)")
    parser.add_argument("--jobs", metavar="N", type=count, default=1, help="cells at once, here (default 1)")
    parser.add_argument("--max-lr", action="store_true", help="search the highest stable learning rates, not the grid")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and what they cost; run nothing")
    parser.add_argument(
        "--engine", choices=("local", "commands", "slurm"), default="local",
        help="commands: print a line of shell for each cell; slurm: hand them to a cluster (default local)",
    )  # fmt: skip
    add_ops(parser)
    return parser


def _sweep(options: argparse.Namespace) -> int:
    study = file.load(options.study, own_ops(options.ops))
    if options.max_lr and not study.config.max_lr:
        message = "--max-lr needs the key `max_lr`, such as max_lr: {low: 1e-3, high: 1}"
        raise SpecError([Problem(message, Place(str(options.study), 0))])
    out, cells = options.out or Path("runs", study.config.study), study.cells
    if options.dry_run:
        say(estimate.listing(study, cells, out, options.jobs))
        return 0
    with Stop() as stop, claim(out) as directory:
        directory.begin(study)
        wanted = _wanted(directory, study, options.max_lr)
        if options.engine != "local":
            return _hand_over(directory, study, wanted, options)
        return _run(directory, study, wanted, options, stop)


def _wanted(directory: StudyDir, study: StudyFile, max_lr: bool) -> Wanted:
    """What is to be run, given how the cells stand: the rest of the grid, or the next probes of the search."""
    if max_lr and study.config.max_lr:
        return Search(study, directory, study.config.max_lr, reader.read(directory.path)).wanted
    return lambda cells: [cell for cell in study.cells if not cells[cell.name].ended]


def _run(directory: StudyDir, study: StudyFile, wanted: Wanted, options: argparse.Namespace, stop: Stop) -> int:
    """Run cells here, and say what the study has come to."""
    known = {cell.name: cell for cell in reader.read(directory.path).cells}
    missing = wanted(known)
    if missing and (code := prepared(study.cells, study.ops)):
        return code
    left = {cell.name: float(estimate.flops(study, cell)) for cell in missing}
    with Board(directory, options.jobs, left) as board:
        local = Local(directory, board, options.jobs, options.ops, known)
        stop.training = True
        local.run(wanted, stop)
    found = reader.read(directory.path)
    say("\n".join(summary(found)))
    if local.full or stop.requested:
        say(f"{'the disk is full' if local.full else 'stopped'}; the same command goes on")
        return DISK if local.full else STOPPED
    for line in edges(found):
        say(line)
    return FAILED if wanted(local.cells) else 0


def _hand_over(directory: StudyDir, study: StudyFile, wanted: Wanted, options: argparse.Namespace) -> int:
    """Leave the cells that have not ended to another program."""
    slurm = study.config.slurm or Slurm()
    cells = wanted({cell.name: cell for cell in reader.read(directory.path).cells})
    for cell in cells:
        directory.add(cell)
    commands = {cell.name: cluster.command(directory, cell, slurm.gpus, options.ops) for cell in cells}
    if options.engine == "commands":
        say(cluster.lines(commands.values()))
        return 0
    jobs = cluster.submit(directory, commands, slurm)
    for name, job in jobs.items():
        say(f"{name}: job {job}")
    say(f"{directory.path}: {len(jobs)} cells handed over, {len(cells) - len(jobs)} in the queue already")
    return 0

"""`blockgraph train`: a run file to a trained model, resumed where it stopped."""

import argparse
import errno
import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.errors import SpecError
from blockgraph.op import Op
from runners import drift, orphan, runfile, sinks
from runners.launch import Launch, launched
from runners.outcome import BAD_INPUT, CODES, DISK, STOPPED, TAKEN, Outcome
from runners.progress import say
from runners.rundir import RUN, RunDir, Taken, claim
from runners.runfile import RunFile
from runners.spec import graph_of, series_of
from runners.stop import Stop

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG}
DESCRIPTION = """Compile the model of a run file and train it. The same command goes on where it stopped, bit for bit:
after Ctrl-C, SIGTERM, SIGUSR1, a crash or a full disk. Under torchrun the state is sharded over all processes."""
EXAMPLE = """example:
  blockgraph train specs/runs/demo.yaml set.block=soft_cap optim.lr=1e-2 --out runs/soft_cap
  torchrun --standalone --nproc-per-node 8 -m runners.train specs/runs/demo.yaml
"""


def command(arguments: list[str]) -> int:
    """Compile the model of a run file and train it, or go on where it stopped.

    Returns the exit code.
    """
    options, launch = _parser().parse_intermixed_args(arguments), launched()
    tell = _tell if launch.leads else _keep
    gc.disable()  # a tenth of the time until the first step, from which on it is enabled
    try:
        return _train(options, launch, tell)
    except SpecError as error:
        tell(error)
        return TAKEN if isinstance(error, Taken) else BAD_INPUT
    except KeyboardInterrupt:
        tell("stopped before a step was taken")
        return STOPPED
    finally:
        gc.enable()


def main() -> None:
    """Run the command of this process, as `python -m runners.train` does."""
    raise SystemExit(command(sys.argv[1:]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph train",
        description=DESCRIPTION,
        epilog=f"{EXAMPLE}\n{CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN.yaml", type=Path, help="the run file")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", type=override, default=[], help="replace a key of the file"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="directory of the run (default: runs/NAME)")
    add_ops(parser)
    return parser


def _tell(fault: object) -> None:
    print(fault, file=sys.stderr)


def _keep(fault: object) -> None:
    """Leave it to the first process to tell what all of them find."""


def override(word: str) -> str:
    """A `key=value` of the command line; raises what argparse tells as wrong usage."""
    key, equals, _ = word.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected key=value, found '{word}'")
    return word


def _train(options: argparse.Namespace, launch: Launch, tell: Callable[[object], None]) -> int:
    run = runfile.load(options.run, options.overrides)
    launch.refuse(run)
    sinks.require(run)
    ops = own_ops(options.ops)
    series_of(run, graph_of(run, ops))
    out = options.out or Path("runs", run.config.run)
    try:
        return _train_in(out, run, ops, launch)
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        told = f"{error.strerror}; what was saved before stands, and the same command goes on from it"
        tell(f"{error.filename or out}: error: {told}")
        return DISK


def _train_in(out: Path, run: RunFile, ops: Mapping[str, type[Op]], launch: Launch) -> int:
    with Stop() as stop, claim(out) if launch.leads else nullcontext(RunDir(out, writes=False)) as directory:
        orphan.watch(launch, stop)
        outcome = _ended(run, directory)
        if not outcome:
            # Only now, because it imports torch, which takes seconds: a mistake is told before.
            from runners.session import train

            outcome = train(run, ops, directory, stop, launch)
        if launch.leads:
            say(f"{out}: {outcome}")
    return outcome.code


def _ended(run: RunFile, directory: RunDir) -> Outcome | None:
    """How the run of this directory ended, if there is no more to do; raise `SpecError` if it is another run."""
    if not directory.started:
        return None
    drift.refuse(run, runfile.load(directory.path / RUN).config, directory.path)
    status = directory.status()
    state, step = status.get("state", ""), status.get("step", 0)
    over = state == "diverged" or (state == "finished" and step == run.config.train.steps)
    return Outcome(state, step, status) if over else None


if __name__ == "__main__":
    main()

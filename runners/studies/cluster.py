"""Cells of a study as plain commands, printed for any scheduler or handed to Slurm as one array of jobs."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import save
from runners.studies.config import Slurm
from runners.studies.directory import StudyDir
from runners.studies.file import Planned

JOBS = "jobs.json"
FOLDER = "slurm"  # what submitit keeps of its jobs
ENGINE = Place("--engine slurm", 0)


def command(directory: StudyDir, cell: Planned, gpus: int, ops: Iterable[str]) -> list[str]:
    """The words of the command that runs a cell, from any working directory."""
    spread = ["torchrun", "--standalone", "--nproc-per-node", str(gpus), "-m", "runners.train"]
    own = [word for file in ops for word in ("--ops", str(Path(file).absolute()))]
    run, out = directory.file(cell.name).absolute(), directory.run(cell.name).absolute()
    return [*(spread if gpus > 1 else ["blockgraph", "train"]), str(run), "--out", str(out), *own]


def lines(commands: Iterable[list[str]]) -> str:
    """Commands as lines of shell."""
    return "\n".join(map(shlex.join, commands))


def submit(directory: StudyDir, commands: dict[str, list[str]], slurm: Slurm) -> dict[str, str]:
    """Hand commands to Slurm as one job array; returns the id of each job by the name of its cell.

    Cells whose jobs are queued or running are left out. Raises `SpecError` when submitit or Slurm is not there.
    """
    submitit = _submitit()
    folder = directory.path / FOLDER
    before = _jobs(directory.path)
    queued = {name for name, job in before.items() if not submitit.SlurmJob(folder, job).done(force_check=True)}
    waiting = {name: words for name, words in commands.items() if name not in queued}
    if not waiting:
        return {}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    except RuntimeError as error:
        raise SpecError([Problem(str(error).strip(), ENGINE, "`--engine commands` prints the commands")]) from None
    executor.update_parameters(**parameters(directory.path.name, slurm))
    with executor.batch():
        jobs = {name: executor.submit(submitit.helpers.CommandFunction(words)) for name, words in waiting.items()}
    ids = {name: str(job.job_id) for name, job in jobs.items()}
    save(directory.path / JOBS, json.dumps(before | ids, indent=1) + "\n")
    return ids


def parameters(name: str, slurm: Slurm) -> dict[str, Any]:
    """What submitit is told of a job; keys that the study leaves out are left to the cluster."""
    asked = {
        "name": name,
        "nodes": 1,
        "tasks_per_node": 1,
        "gpus_per_node": slurm.gpus,
        "cpus_per_task": slurm.cpus,
        "timeout_min": slurm.minutes,
        "mem_gb": slurm.memory_gb,
        "slurm_partition": slurm.partition,
        "slurm_account": slurm.account,
        "slurm_qos": slurm.qos,
        "slurm_array_parallelism": slurm.at_once,
        "slurm_setup": slurm.setup or None,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _jobs(path: Path) -> dict[str, str]:
    jobs: dict[str, str] = json.loads((path / JOBS).read_bytes()) if (path / JOBS).exists() else {}
    return jobs


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        hint = "pip install 'blockgraph[slurm]', or --engine commands"
        raise SpecError([Problem("it needs the package submitit", ENGINE, hint)]) from None
    return submitit

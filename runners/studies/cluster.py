"""Cells of a study as plain commands, printed for any scheduler or handed to Slurm as one array of jobs."""

import getpass
import json
import shlex
import subprocess
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
    queue = _queue() if before else set()
    queued = {name for name, job in before.items() if job in queue}
    waiting = {name: words for name, words in commands.items() if name not in queued}
    if not waiting:
        return {}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    except RuntimeError as error:
        raise SpecError([Problem(str(error).strip(), ENGINE, "`--engine commands` prints the commands")]) from None
    executor.update_parameters(**parameters(directory.path.name, slurm))
    try:
        with executor.batch():
            jobs = {name: executor.submit(submitit.helpers.CommandFunction(words)) for name, words in waiting.items()}
    except submitit.core.utils.FailedJobError as error:
        raise SpecError([Problem(_refused(error), ENGINE, _asked(slurm))]) from None
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


def _queue() -> set[str]:
    """Jobs of this user that wait or run, one of an array as `7_2`.

    It is the queue that is asked, because a cluster without accounting knows nothing else of a job.
    """
    words = ["squeue", "--noheader", "--array", "--format=%i", "--user", getpass.getuser()]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        told = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise SpecError([Problem(f"the queue cannot be read: {told}", ENGINE)]) from None
    return set(asked.stdout.split())


def _refused(error: Exception) -> str:
    """What sbatch said when it took no job."""
    return f"Slurm took no job: {' '.join(str(error).split())}"


def _asked(slurm: Slurm) -> str:
    """What a cluster may not have of what a cell asks for."""
    gpus = f"{slurm.gpus} GPU{'s' * (slurm.gpus != 1)} and " if slurm.gpus else ""
    return f"a cell asks for {gpus}{slurm.cpus} cores; `slurm: {{gpus: 0, cpus: 1}}` in the study asks for less"


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

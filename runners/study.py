"""The directory of a study, read: its cells, what sets each apart, and how each stands."""

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.syntax import plain
from blockgraph.syntax import read as read_yaml
from runners.rundir import LOCK, METRICS, STATUS

STUDY = "study.yaml"
CELLS = "cells.jsonl"
FAILURES = "failures.json"
RUNS = "cells"
ENDED = ("finished", "diverged")


@dataclass(frozen=True)
class Cell:
    """One run of a study, in a directory of its own.

    `settings` holds its point on each axis of the study: a value of a key, or the name of a joint point. `state` is
    missing, running, finished, diverged, stopped or failed; `facts` are those of its status, such as `step`,
    `val_loss`, `rule` and `reason`. A `probe` was added by the search for the highest stable learning rate.
    """

    name: str
    settings: dict[str, Any]
    directory: Path
    state: str
    facts: dict[str, Any]
    probe: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is no more to do: the run is finished, or it diverged."""
        return self.state in ENDED

    @property
    def metrics(self) -> Path:
        """The file of its series."""
        return self.directory / METRICS


@dataclass(frozen=True)
class Study:
    """A study as it lies on the disk.

    `axes` maps each axis to its values, in the order of the study file; `points` holds what the names of a joint axis
    stand for; `rule` is what the study counts as diverged (`runners.studies.stability`), `search` the bounds of
    `max_lr`, empty where it has none.
    """

    name: str
    directory: Path
    axes: dict[str, list[Any]]
    points: dict[str, dict[str, dict[str, Any]]]
    rule: dict[str, Any]
    search: dict[str, Any]
    cells: list[Cell]


def read(directory: str | Path) -> Study:
    """A study by its directory; raises `SpecError` when there is none in it."""
    directory = Path(directory)
    if not (directory / CELLS).exists():
        message = "no study has begun in this directory"
        raise SpecError([Problem(message, Place(str(directory), 0), "`blockgraph sweep STUDY.yaml` begins one")])
    facts = plain(read_yaml(directory / STUDY))
    failures = failures_of(directory)
    rows = [json.loads(line) for line in (directory / CELLS).read_text().splitlines()]
    return Study(
        name=facts["study"],
        directory=directory,
        axes=facts["axes"],
        points=facts["points"],
        rule=facts["diverged"],
        search=facts["max_lr"] or {},
        cells=[cell(directory, row, failures) for row in rows],
    )


def failures_of(directory: Path) -> dict[str, str]:
    """Why processes of cells ended without writing a status, by the name of the cell."""
    path = directory / FAILURES
    failures: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    return failures


def held(run: Path) -> bool:
    """Whether a process is writing the directory of a run."""
    try:
        with (run / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def status_of(run: Path) -> tuple[str, dict[str, Any]]:
    """State and facts of a run's directory; a run that says it is running, but that nobody holds, was killed."""
    try:
        facts = json.loads((run / STATUS).read_bytes())
    except FileNotFoundError:
        return "missing", {}
    state = facts.pop("state")
    return ("stopped", facts | {"reason": "killed"}) if state == "running" and not held(run) else (state, facts)


def cell(directory: Path, row: dict[str, Any], failures: dict[str, str]) -> Cell:
    """How the cell of a line of `cells.jsonl` stands; what `failures_of` keeps of it counts unless it has ended."""
    run = directory / RUNS / row["name"]
    state, facts = status_of(run)
    if row["name"] in failures and state not in ("running", *ENDED):
        state, facts = "failed", facts | {"reason": failures[row["name"]]}
    return Cell(row["name"], row["settings"], run, state, facts, row["probe"])

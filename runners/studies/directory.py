"""The directory of a study, written: one sweep at a time, every file whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockgraph.files import LEFTOVER, save
from runners import drift, runfile
from runners.rundir import RUN, lock, refuse
from runners.studies.file import Planned, StudyFile
from runners.study import CELLS, FAILURES, RUNS, STUDY, failures_of

LOCK = "sweep.lock"


@dataclass
class StudyDir:
    """Where a sweep writes. `rows` are the lines of `cells.jsonl`, by the name of the cell; `handle` is its lock."""

    path: Path
    handle: int
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def taken(self) -> dict[str, dict[str, Any]]:
        """Names of the cells with their settings."""
        return {name: row["settings"] for name, row in self.rows.items()}

    def run(self, name: str) -> Path:
        """The run directory of a cell."""
        return self.path / RUNS / name

    def file(self, name: str) -> Path:
        """The run file of a cell."""
        return self.path / RUNS / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """What a cell says."""
        return self.path / RUNS / f"{name}.log"

    def begin(self, study: StudyFile) -> None:
        """Write down the study and its cells; probes of an earlier search stay.

        Raises `SpecError`, before anything is written, when a cell was begun with other settings.
        """
        for cell in study.cells:
            self._refuse_drift(cell)
        self.rows = {cell.name: _row(cell) for cell in study.cells}
        self.rows |= {name: row for name, row in _rows(self.path).items() if row["probe"] and name not in self.rows}
        save(self.path / STUDY, study.resolved)
        (self.path / RUNS).mkdir(exist_ok=True)
        for cell in study.cells:
            self._write(cell)
        self._list()

    def add(self, cell: Planned) -> None:
        """Write down a cell that is not in it yet; raises `SpecError` as `begin` does."""
        if self.rows.get(cell.name) != _row(cell):
            self._refuse_drift(cell)
            self._write(cell)
            self.rows.setdefault(cell.name, _row(cell))
            self._list()

    def failed(self, name: str, reason: str) -> None:
        """Keep why the process of a cell ended; an empty reason takes back what was kept."""
        before = failures_of(self.path)
        after = {cell: told for cell, told in (before | {name: reason}).items() if told}
        if after != before:
            save(self.path / FAILURES, json.dumps(after, indent=1) + "\n")

    def _list(self) -> None:
        save(self.path / CELLS, "".join(f"{json.dumps(row)}\n" for row in self.rows.values()))

    def _write(self, cell: Planned) -> None:
        path = self.file(cell.name)
        if not path.exists() or path.read_text() != cell.text:
            save(path, cell.text)

    def _refuse_drift(self, cell: Planned) -> None:
        """Raise `SpecError` when a cell that has begun is asked to be another."""
        path, began = self.file(cell.name), self.run(cell.name) / RUN
        if began.exists() and not (path.exists() and path.read_text() == cell.text):
            drift.refuse(cell.run, runfile.load(began).config, self.run(cell.name))


@contextmanager
def claim(path: Path) -> Iterator[StudyDir]:
    """The directory of a study that no other sweep writes until the end of the block.

    It is made where there is none, and removed again when no study began in it. Raises `SpecError` when another sweep
    has it, or when it holds something else than a study.
    """
    made = not path.exists()
    handle = lock(path, LOCK, "study")
    for leftover in (*path.glob(LEFTOVER), *path.glob(f"{RUNS}/{LEFTOVER}")):
        leftover.unlink()
    try:
        if not (path / STUDY).exists() and any(entry.name != LOCK for entry in path.iterdir()):
            raise refuse(path, "the directory holds something else than a study", "name another with --out")
        yield StudyDir(path, handle)
    finally:
        if made and not (path / STUDY).exists():
            (path / LOCK).unlink()
            path.rmdir()
        os.close(handle)


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    if not (path / CELLS).exists():
        return {}
    rows = map(json.loads, (path / CELLS).read_text().splitlines())
    return {row["name"]: row for row in rows}


def _row(cell: Planned) -> dict[str, Any]:
    return {"name": cell.name, "settings": cell.settings, "probe": cell.probe}

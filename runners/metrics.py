"""The series of a run, one JSON object a line, which survives being killed."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockgraph.files import save
from runners.recorder import Recorder
from runners.sinks import Sink


class Metrics:
    """Appends rows to `metrics.jsonl`, and to each sink; opened at the step that a run continues from.

    The rows of the probes go to a recorder, which follows in everything.
    """

    def __init__(self, path: Path, step: int, sinks: Sequence[Sink] = (), recorder: Recorder | None = None):
        self.path, self.sinks, self.recorder = path, sinks, recorder
        if path.exists():
            _repair(path, step)
        self._file = self._opened()

    def append(self, row: dict[str, Any]) -> None:
        """Write a row in one piece, so that at most the last line of a killed run is torn."""
        line = _line(row).encode()
        while line:  # a full disk may take a part before it refuses the rest
            line = line[os.write(self._file, line) :]
        for sink in self.sinks:
            sink.add(row)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row of the probes."""
        if self.recorder:
            self.recorder.append(step, values)

    def rewind(self, event: dict[str, Any]) -> None:
        """Take out the rows after the step of `event` and write it in their place, at once or not at all.

        What is taken out goes to `metrics.dropped.jsonl`.
        """
        with self.path.with_suffix(".dropped.jsonl").open("a") as dropped:
            dropped.writelines(_line(row) for row in _objects(self.path) if row["step"] > event["step"])
        _repair(self.path, event["step"], event)
        before, self._file = self._file, self._opened()
        os.close(before)
        if self.recorder:
            self.recorder.rewind(event["step"])

    def sync(self) -> None:
        """Wait until all rows are on the disk; a checkpoint promises the rows before it."""
        os.fsync(self._file)
        if self.recorder:
            self.recorder.sync()

    def close(self) -> None:
        """Let go of the files and of the sinks."""
        os.close(self._file)
        if self.recorder:
            self.recorder.close()
        for sink in self.sinks:
            sink.close()

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of the logged steps; what a crash left of a line is passed over."""
    return [row for row in _objects(path) if "event" not in row]


def events(path: Path) -> list[dict[str, Any]]:
    """What happened between two steps: each time that the run went back."""
    return [row for row in _objects(path) if "event" in row]


def _objects(path: Path) -> list[dict[str, Any]]:
    *lines, _ = path.read_bytes().split(b"\n")
    return [row for line in lines if (row := _row(line))]


def _row(line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return row


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _repair(path: Path, step: int, *events: dict[str, Any]) -> None:
    """Drop a torn last line and the rows after `step`, which the run is about to write again; then add `events`."""
    kept = "".join(_line(row) for row in (*_objects(path), *events) if row["step"] <= step)
    if kept.encode() != path.read_bytes():
        save(path, kept)

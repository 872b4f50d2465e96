"""The series of a run, one JSON object a line, which survives being killed."""

import json
import os
from pathlib import Path
from typing import Any

from runners.files import write_whole


class Metrics:
    """Appends rows to `metrics.jsonl`; opened at the step that a run continues from."""

    def __init__(self, path: Path, step: int):
        if path.exists():
            _repair(path, step)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, row: dict[str, Any]) -> None:
        """Write a row in one piece, so that at most the last line of a killed run is torn."""
        line = json.dumps(row).encode() + b"\n"
        while line:  # a full disk may take a part before it refuses the rest
            line = line[os.write(self._file, line) :]

    def sync(self) -> None:
        """Wait until all rows are on the disk; a checkpoint promises the rows before it."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a series; what a crash left of a line is passed over."""
    *lines, _ = path.read_bytes().split(b"\n")
    return [row for line in lines if (row := _row(line))]


def _row(line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return row


def _repair(path: Path, step: int) -> None:
    """Drop a torn last line and the rows after `step`, which the run is about to write again."""
    kept = "".join(json.dumps(row) + "\n" for row in rows(path) if row["step"] <= step)
    if kept.encode() != path.read_bytes():
        write_whole(path, kept)

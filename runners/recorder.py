"""The probes' series of a run, written row by row so that being killed costs the last row at most."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockgraph.files import save
from runners.series import INDEX, Column, Index


class Recorder:
    """Appends rows to a folder of probes, opened at the step that the run continues from.

    Rows after that step, which the run is about to write again, are dropped. Columns that the folder does not have yet
    are NaN in the rows before, and columns that the run records no more are NaN from here on.
    """

    def __init__(self, folder: Path, columns: Iterable[Column], step: int):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        old = Index.read(folder) if (folder / INDEX).exists() else None
        self.index = _together(old, columns)
        if old is None or self.index != old:
            _write(folder, self.index, old)
        for stray in set(folder.iterdir()) - {folder / INDEX, folder / self.index.file}:
            stray.unlink()
        self._file = self._from(step)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write the row of a step in one piece."""
        row = np.empty(1, self.index.row)
        row["step"] = step
        row["values"] = [values.get(column.name, np.nan) for column in self.index.columns]
        data = row.tobytes()
        while data:  # a full disk may take a part before it refuses the rest
            data = data[os.write(self._file, data) :]

    def rewind(self, step: int) -> None:
        """Drop the rows after a step."""
        self.close()
        self._file = self._from(step)

    def sync(self) -> None:
        """Wait until all rows are on the disk; a checkpoint promises the rows before it."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _from(self, step: int) -> int:
        """The file with the rows up to a step, open for more; what a kill left of a row goes too."""
        path, rows = self.folder / self.index.file, self.index.rows(self.folder)
        kept = rows[: np.searchsorted(rows["step"], step, side="right")]
        if kept.nbytes != path.stat().st_size:
            save(path, kept.tobytes())  # not cut short, because somebody may have mapped it
        return os.open(path, os.O_WRONLY | os.O_APPEND)


def _together(old: Index | None, columns: Iterable[Column]) -> Index:
    """The columns there are with those that are new, in a file whose name follows from theirs."""
    found = {column.name: column for column in (*(old.columns if old else ()), *columns)}
    name = hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
    return Index(f"rows-{name}.bin", tuple(found.values()))


def _write(folder: Path, index: Index, old: Index | None) -> None:
    """A file with the rows there are, then the index that names it: a reader finds the old pair or the new one."""
    save(folder / index.file, _moved(old.rows(folder), index).tobytes() if old else b"")
    save(folder / INDEX, index.text)


def _moved(rows: NDArray[Any], index: Index) -> NDArray[Any]:
    """Rows of fewer columns among those of the index, which begins with the same ones."""
    moved = np.empty(len(rows), index.row)
    moved["step"] = rows["step"]
    moved["values"] = np.nan
    moved["values"][:, : rows["values"].shape[1]] = rows["values"]
    return moved

"""The probes' series of a run, read from its directory: one column for each quantity, one row for each probed step."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockgraph.errors import Place, Problem, SpecError, near_miss
from blockgraph.patterns import matching

PROBES = "probes"  # the folder in a run's directory
INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Column:
    """One quantity: its name (`layers.0.attn.qkv.x.l2`), its unit (`1` where it has none) and what it means."""

    name: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Index:
    """What the rows hold, and the file of the folder that they are in."""

    file: str
    columns: tuple[Column, ...]

    @staticmethod
    def read(folder: Path) -> "Index":
        """The index of a folder of probes. Raises `FileNotFoundError` where nothing was ever recorded."""
        data: Any = json.loads((folder / INDEX).read_bytes())
        return Index(data["file"], tuple(Column(**column) for column in data["columns"]))

    @property
    def text(self) -> str:
        """The index as JSON."""
        columns = [asdict(column) for column in self.columns]
        return json.dumps({"file": self.file, "columns": columns}, indent=1) + "\n"

    @property
    def row(self) -> np.dtype[Any]:
        """A row: the step, then a number for each column."""
        return np.dtype([("step", "<i8"), ("values", "<f4", (len(self.columns),))])

    def rows(self, folder: Path) -> NDArray[Any]:
        """All whole rows, mapped from the file; what a kill left of the last one is passed over."""
        path = folder / self.file
        count = path.stat().st_size // self.row.itemsize
        return np.memmap(path, self.row, "r", shape=(count,)) if count else np.empty(0, self.row)


@dataclass(frozen=True)
class Series:
    """The probes of a run: `values[i, j]` is the quantity `columns[j]` at step `steps[i]`.

    The values are float32, mapped from the disk and read when they are used. A quantity that was not recorded at a
    step, because the run asked for others then, is NaN there.
    """

    steps: NDArray[np.int64]
    columns: tuple[Column, ...]
    values: NDArray[np.float32]

    @property
    def names(self) -> list[str]:
        """Names of the quantities, in the order of the columns of `values`."""
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """The values of one quantity. Raises `KeyError` with the near miss for a name that the run has not recorded."""
        if name not in self._place:
            raise KeyError(f"'{name}' was not recorded {near_miss(name, self._place)}".rstrip())
        return self.values[:, self._place[name]]

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def select(self, pattern: str) -> dict[str, NDArray[np.float32]]:
        """The quantities whose names match: `*` stands for anything within a word, `**` for any number of words."""
        return {name: self[name] for name in matching(pattern, self.names)}

    def about(self, name: str) -> Column:
        """Unit and meaning of a quantity, for the label of an axis."""
        return self.columns[self._place[name]]

    @cached_property
    def _place(self) -> Mapping[str, int]:
        return {column.name: place for place, column in enumerate(self.columns)}


def layer_of(name: str) -> int | None:
    """The layer that a series belongs to, such as 3 of `layers.3.attn.qkv.y.l2`."""
    return next((int(word) for word in name.split(".") if word.isdecimal()), None)


def load(run: Path) -> Series:
    """The series in a run's directory, which may still be training. Raises `SpecError` where there are none."""
    folder = Path(run) / PROBES
    try:
        index = Index.read(folder)
        rows = index.rows(folder)
    except FileNotFoundError:
        message = "there are no probes here"
        hint = "`log.probes` of a run file says what is recorded"
        raise SpecError([Problem(message, Place(str(folder), 0), hint)]) from None
    return Series(rows["step"], index.columns, rows["values"])

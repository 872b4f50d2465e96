"""A stand-in for the library `datasets`: rows that are streamed, and a network that fails."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from data_case import SEQ

from blockgraph.errors import SpecError
from runners.corpus import DataConfig, Source
from runners.shards import Dataset, prepare
from runners.tokenizer import load

HUB = "allenai/c4"
TOKENS = 30_000  # of the texts of the tests, a little more than half


class Hub:
    """What a test puts on the hub, and what was asked of it; `on_row` is called before each row that is read."""

    def __init__(self) -> None:
        self.splits: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[object, ...]] = []
        self.read: list[int] = []
        self.on_row: Callable[[int], None] = self.read.append

    def load_dataset(self, path: str, name: str | None, *, split: str, revision: str | None, streaming: bool) -> "Rows":
        """As the library's own, which knows its splits."""
        assert streaming
        self.asked.append((path, name, split, revision))
        if split not in self.splits:
            raise ValueError(f"Bad split: {split}. Available splits: {list(self.splits)}\nand more")
        return Rows(self, self.splits[split])


class Rows:
    """A streamed split; its state is plain data with nothing in some places, as the library's is."""

    def __init__(self, hub: Hub, rows: list[dict[str, Any]]):
        self.hub, self.rows, self.at = hub, rows, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.at, len(self.rows)):
            self.hub.on_row(number)
            self.at = number + 1
            yield self.rows[number]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {"examples": {"at": self.at, "previous": None}, "epoch": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        assert state["examples"]["previous"] is None
        self.at = state["examples"]["at"]


def install(patch: pytest.MonkeyPatch, texts: list[str]) -> Hub:
    """A hub whose split `train` holds these texts, in place of the library."""
    hub, module = Hub(), ModuleType("datasets")
    hub.splits["train"] = [{"text": text, "url": None} for text in texts]
    module.load_dataset = hub.load_dataset  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "datasets", module)
    return hub


def source_of(**keys: object) -> Source:
    """A data set of which a part is asked for."""
    return Source.model_validate({"hub": HUB, "name": "en", "tokens": TOKENS} | keys)


def hub_data(*sources: Source, **keys: object) -> DataConfig:
    """A run on it, or on the sources given."""
    return DataConfig.model_validate({"train": list(sources or [source_of()]), "seq": SEQ} | keys)


def prepared(folder: Path, model: Path, data: DataConfig | None = None) -> Dataset:
    """Its dataset, kept in a cache in the folder."""
    return prepare(data or hub_data(), load(model), folder / "cache", folder)


def error(folder: Path, model: Path, data: DataConfig | None = None) -> str:
    """What a user is told who asks for it."""
    with pytest.raises(SpecError) as caught:
        prepared(folder, model, data)
    return str(caught.value)

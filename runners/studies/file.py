"""Study file to its cells: a checked run for every point of its grids."""

import json
import os
from collections.abc import Iterable
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from blockgraph.errors import Problem, Problems, SpecError
from blockgraph.graph import Graph
from blockgraph.library import located, names_path
from blockgraph.op import Op
from blockgraph.schema import fill
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, plain, read
from runners import runfile
from runners.runfile import OF_TEXTS, RunFile
from runners.spec import graph_of, series_of, vocab_of
from runners.studies import axes
from runners.studies.axes import Points
from runners.studies.config import VERDICT, StudyConfig


@dataclass(frozen=True)
class Planned:
    """A cell that is to be run; a `probe` is one of the search for the highest stable learning rate."""

    name: str
    settings: dict[str, Any]
    run: RunFile
    probe: bool = False

    @property
    def text(self) -> str:
        """Its run file, whole."""
        return runfile.to_yaml(plain(self.run.text))


@dataclass
class StudyFile:
    """A checked study file: `text` is the run that all cells share, `points` what each cell has of its own.

    `graphs` holds the checked models of the cells, by what decides them.
    """

    config: StudyConfig
    path: Path
    text: Mapping
    points: list[Points]
    ops: Table[str, type[Op]]
    graphs: dict[str, Graph] = field(default_factory=dict)

    @cached_property
    def cells(self) -> list[Planned]:
        """Every cell, in the order of the file; raises `SpecError` with the faults of all of them."""
        faults: dict[Problem, str] = {}
        found: dict[str, Planned] = {}
        for points in self.points:
            try:
                cell = self.planned(points, {name: cell.settings for name, cell in found.items()})
                found[cell.name] = cell
            except SpecError as error:
                faults |= {problem: axes.name_of(points, {}) for problem in error.problems if problem not in faults}
        if faults:
            cells = ", ".join(dict.fromkeys(faults.values()))
            raise SpecError(faults, f"found in {cells}" if self.points != [()] else "")
        return list(found.values())

    def planned(self, points: Points, taken: Table[str, dict[str, Any]], probe: bool = False) -> Planned:
        """The cell of some points, its model and probes checked; `taken` are names of others with their settings."""
        name = axes.name_of(points, taken)
        text = self.text
        for point in points:
            text = _laid(text, _rooted(point.keys, self.path.parent))
        place = text.place
        run = runfile.checked(runfile.put(text, ["run"], Scalar(name, place, name), place), self.path)
        series_of(run, self.graph(run))
        return Planned(name, axes.settings(points), run, probe)

    def graph(self, run: RunFile) -> Graph:
        """The model of a cell; cells that differ in training alone share it."""
        vocab = vocab_of(run)
        key = json.dumps([run.config.model, run.config.set, vocab])
        if key not in self.graphs:
            self.graphs[key] = graph_of(run, self.ops, vocab)
        return self.graphs[key]

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The labels on each axis, in the order of the file."""
        return _labels(self.points)

    @property
    def joint(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the names of each joint axis stand for."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for point in (point for points in self.points for point in points if point.joint):
            found.setdefault(point.axis, {})[point.label] = {
                axes.axis_name(key): plain(value) for key, value in point.keys.items.items()
            }
        return found

    @property
    def resolved(self) -> str:
        """The text of `study.yaml`."""
        config = self.config
        return runfile.to_yaml(
            {
                "study": config.study,
                "axes": self.axes,
                "points": self.joint,
                "diverged": config.diverged.model_dump(),
                "max_lr": config.max_lr.model_dump() if config.max_lr else None,
                "run": plain(self.text),
            }
        )


def load(path: Path, ops: Table[str, type[Op]]) -> StudyFile:
    """Read a study file; raises `SpecError` with every fault of the study, not of its cells."""
    text, problems = read(path), Problems()
    name = {"study": Scalar(path.stem, text.place, path.stem)}
    config = fill(StudyConfig, replace(text, items=name | text.items, keys={"study": text.place} | text.keys), problems)
    problems.stop_if_any()
    assert config is not None
    points = _points(text, problems)
    problems.stop_if_any()
    return StudyFile(config, path, _shared(text, path), points, ops)


def _points(text: Mapping, problems: Problems) -> list[Points]:
    """The points of every cell, each once."""
    grids = [grid for grid in (_mapping(text, "grid"), *_entries(text, "grids")) if grid.items]
    crossings = [axes.axes(grid, problems) for grid in grids]
    joint = {(p.axis, p.label): p for grid in crossings for axis in grid for p in axis if p.joint}
    found = [points for grid in crossings for points in axes.crossed(grid)]
    found += [axes.listed(cell, joint) for cell in _entries(text, "cells")]
    known = _labels(found)
    rules = [axes.exclusions(entry, known, problems) for entry in _entries(text, "exclude")]
    kept = [points for points in found or [()] if not axes.excluded(points, rules)]
    if not kept and not problems.found:
        problems.add("every cell is excluded", text.keys["exclude"])
    return list({json.dumps(axes.settings(points)): points for points in kept}.values())


def _labels(cells: Iterable[Points]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for point in (point for points in cells for point in points):
        labels = found.setdefault(point.axis, [])
        if point.label not in labels:
            labels.append(point.label)
    return found


def _shared(text: Mapping, path: Path) -> Mapping:
    """The run that all cells share: the base, the study's own keys, and its rule."""
    shared = _laid(_base(text, path), _rooted(_mapping(text, "run"), path.parent))
    rule = _mapping(text, "diverged")
    own = {key: value for key, value in rule.items.items() if key not in VERDICT}
    if own:
        key, place = "train.diverged", rule.place
        shared = _laid(shared, Mapping({key: replace(rule, items=own)}, {key: place}, place))
    return shared


def _base(text: Mapping, path: Path) -> Mapping:
    name = text.items.get("base")
    if not isinstance(name, Scalar) or name.value is None:
        return Mapping({}, {}, text.place)
    base = Path(os.path.normpath(path.parent / str(name.value)))
    if not base.is_file():
        raise SpecError([Problem(f"there is no run file '{name.value}'", name.place)])
    return _rooted(read(base), base.parent)


def _laid(text: Mapping, over: Mapping) -> Mapping:
    """The text with the values of `over` in it; its keys may be dotted, and mappings are laid into mappings."""
    for name, value in over.items.items():
        key = name.split(".")
        inner = _at(text, key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            value = _laid(inner, value)
        text = runfile.put(text, key, value, over.keys[name])
    return text


def _at(text: Mapping, key: list[str]) -> Value | None:
    value: Value | None = text
    for part in key:
        value = value.items.get(part) if isinstance(value, Mapping) else None
    return value


def _rooted(text: Mapping, folder: Path) -> Mapping:
    """The text with every path in it absolute, because the cells' run files lie elsewhere."""
    items = {name: _from(value, name.split("."), folder.absolute()) for name, value in text.items.items()}
    return replace(text, items=items)


def _from(value: Value, key: list[str], folder: Path) -> Value:
    match value:
        case Scalar(value=str(word)) if _names_file(key, word):
            return replace(value, value=str(folder / word) if key[0] in OF_TEXTS else located(word, folder))
        case Scalar():
            return value
        case Sequence():
            return replace(value, items=tuple(_from(item, key, folder) for item in value.items))
        case Mapping():
            return replace(value, items={name: _from(item, [*key, name], folder) for name, item in value.items.items()})


def _names_file(key: list[str], word: str) -> bool:
    """Whether a word of a run file is a path: of a text, or of a spec."""
    if key[0] in OF_TEXTS:
        return key[-1] == "path"
    return key[0] in ("model", "set") and names_path(word)


def _mapping(text: Mapping, key: str) -> Mapping:
    value = text.items.get(key)
    return value if isinstance(value, Mapping) else Mapping({}, {}, text.place)


def _entries(text: Mapping, key: str) -> list[Mapping]:
    value = text.items.get(key)
    return [item for item in value.items if isinstance(item, Mapping)] if isinstance(value, Sequence) else []

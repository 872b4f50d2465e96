"""Grids of a study file to points: the values that a cell has on each axis, and the keys of a run that they set."""

import json
import re
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass
from itertools import product
from typing import Any

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.library import stem
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, describe, plain
from runners.cache import digest
from runners.config import RunConfig

SEED, LR = "train.seed", "optim.lr"
SHORT = {"seed": SEED}
LONGEST = 80  # characters of a name

Points = tuple["Point", ...]


@dataclass(frozen=True)
class Point:
    """A value on an axis: `label` is the value, or the name of a joint point; `keys` are what it sets in a run."""

    axis: str
    label: Any
    keys: Mapping
    joint: bool = False


def run_key(name: str) -> str:
    """The key of a run that a study means: slots and dims of the model go without `set.`, `seed` is `train.seed`."""
    if "." in name or name in RunConfig.model_fields:
        return name
    return SHORT.get(name, f"set.{name}")


def axis_name(name: str) -> str:
    """What an axis is called, however the study writes it."""
    return run_key(name).removeprefix("set.")


def axes(grid: Mapping, problems: Problems) -> list[list[Point]]:
    """The points of each axis of a grid, with a problem for what is no axis."""
    return [_axis(name, value, grid.keys[name], problems) for name, value in grid.items.items()]


def crossed(grid: list[list[Point]]) -> Iterator[Points]:
    """Every cell of a grid; the last axis changes fastest."""
    return product(*grid)


def listed(cell: Mapping, known: Table[tuple[str, str], Point]) -> Points:
    """A cell that is written out; a word on a joint axis is the name of one of its points, which are `known`."""
    return tuple(_given(name, value, cell.keys[name], known) for name, value in cell.items.items())


def settings(points: Points) -> dict[str, Any]:
    """The value of a cell on each axis."""
    return {point.axis: point.label for point in points}


def excluded(points: Points, rules: Iterable[dict[str, list[Any]]]) -> bool:
    """Whether a cell has one of the values on every axis that some rule names."""
    have = settings(points)
    return any(all(axis in have and have[axis] in values for axis, values in rule.items()) for rule in rules)


def exclusions(entry: Mapping, known: dict[str, list[Any]], problems: Problems) -> dict[str, list[Any]]:
    """An entry of `exclude`: the values it names on each axis, with a problem for what no cell has."""
    rule: dict[str, list[Any]] = {}
    for name, value in entry.items.items():
        axis, found = axis_name(name), value.items if isinstance(value, Sequence) else (value,)
        if axis not in known:
            problems.add(f"no axis is called '{name}'", entry.keys[name], _known(name, known))
            continue
        for item in found:
            if plain(item) not in known[axis]:
                words = [_text(label) for label in known[axis]]
                problems.add(f"no cell has {describe(item)} on {name}", item.place, _known(_text(plain(item)), words))
        rule[axis] = [plain(item) for item in found]
    return rule


def name_of(points: Points, taken: Table[str, dict[str, Any]]) -> str:
    """A name for the directory of a cell, made of its values.

    A hash of them ends it where it would be too long, or is `taken` by other settings.
    """
    name, found = "-".join(map(_word, points)) or "run", settings(points)
    if len(name) <= LONGEST and taken.get(name, found) == found:
        return name
    return f"{name[: LONGEST - 9]}-{digest(found)[:8]}"


def _axis(name: str, value: Value, place: Place, problems: Problems) -> list[Point]:
    if run_key(name).partition(".")[0] == "run":
        problems.add("'run' is no axis: the study names its cells", place)
    elif isinstance(value, Sequence) and value.items:
        return _distinct([_single(name, item, place) for item in value.items], value, problems)
    elif isinstance(value, Mapping) and value.items:
        return [_joint(name, label, body, value.keys[label], problems) for label, body in value.items.items()]
    else:
        problems.add(f"{name}: a list of values, or named points, is expected, found {describe(value)}", value.place)
    return []


def _distinct(points: list[Point], value: Sequence, problems: Problems) -> list[Point]:
    for index, point in enumerate(points):
        if point.label in [before.label for before in points[:index]]:
            problems.add(f"{point.axis} has {_text(point.label)} twice", value.items[index].place)
    return points


def _single(name: str, value: Value, place: Place) -> Point:
    key = run_key(name)
    return Point(axis_name(name), plain(value), Mapping({key: value}, {key: place}, place))


def _joint(name: str, label: str, body: Value, place: Place, problems: Problems) -> Point:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", label):
        problems.add(f"'{label}' cannot name a point: letters, digits, dots, dashes and underscores can", place)
    if not isinstance(body, Mapping):
        problems.add(f"the point '{label}' of {name} is a mapping of keys, found {describe(body)}", body.place)
        body = Mapping({}, {}, body.place)
    items = {run_key(key): value for key, value in body.items.items()}
    places = {run_key(key): at for key, at in body.keys.items()}
    return Point(axis_name(name), label, Mapping(items, places, body.place), joint=True)


def _given(name: str, value: Value, place: Place, known: Table[tuple[str, str], Point]) -> Point:
    word = value.raw if isinstance(value, Scalar) else ""
    return known.get((axis_name(name), word)) or _single(name, value, place)


def _word(point: Point) -> str:
    label = point.label
    word = stem(label) if isinstance(label, str) else f"{point.axis.rpartition('.')[2]}{_text(label)}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", word).strip("_-.")


def _text(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label)


def _known(word: str, known: Iterable[str]) -> str:
    return near_miss(word, known) or f"known are {', '.join(known)}"

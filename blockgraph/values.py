"""What a YAML text holds: words, numbers, lists and mappings, each with its place."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from blockgraph.errors import Place

MAX_SHOWN = 80  # characters of a value in an error text

# The core schema of YAML 1.2: `no` and `on` are words, `6e-3` is a number, `010` is ten.
_WORDS: dict[str, bool | None] = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_WORDS |= dict.fromkeys(["true", "True", "TRUE"], True) | dict.fromkeys(["false", "False", "FALSE"], False)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_QUOTED = re.compile(r"(?<![^ ])'(\w+)'")
_ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A word, number, truth value or null, as YAML 1.2 reads it; `raw` is what was written."""

    value: str | int | float | bool | None
    place: Place
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of values."""

    items: tuple["Value", ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Mapping:
    """Named values in the order of the text; `keys` holds the place of each name."""

    items: dict[str, "Value"]
    keys: dict[str, Place]
    place: Place


Value = Scalar | Sequence | Mapping


def is_int(raw: str) -> bool:
    """Whether an unquoted word is a whole number."""
    return _INT.fullmatch(raw) is not None


def scalar(raw: str) -> str | int | float | bool | None:
    """The value of an unquoted word by the core schema of YAML 1.2."""
    if raw in _WORDS:
        return _WORDS[raw]
    if is_int(raw):
        return int(raw, 0) if raw[:2] in ("0x", "0o") else int(raw)
    if _FLOAT.fullmatch(raw):
        return float(raw)
    return float(raw.replace(".", "")) if _ENDLESS.fullmatch(raw) else raw


def plain(value: Value) -> Any:
    """The bare Python data, without places."""
    match value:
        case Scalar():
            return value.value
        case Sequence():
            return [plain(item) for item in value.items]
        case Mapping():
            return {key: plain(item) for key, item in value.items.items()}


def describe(value: Value) -> str:
    """What a value is, in words for an error text."""
    match value:
        case Scalar(value=None):
            return "nothing"
        case Scalar():
            return f"'{value.raw}'" if len(value.raw) <= MAX_SHOWN else f"'{value.raw[:MAX_SHOWN]}...'"
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"


def place_of(message: str, value: Value) -> Place:
    """Where in a value the fault lies: at the word that the message quotes, where the value holds it."""
    quoted = _QUOTED.search(message)
    for part in scalars(value) if quoted else ():
        found = re.search(rf"\b{quoted[1]}\b", part.raw) if quoted else None
        if found and part.place.text.startswith(part.raw, part.place.column - 1):
            return replace(part.place, column=part.place.column + found.start(), width=len(found[0]))
    return value.place


def scalars(value: Value) -> Iterator[Scalar]:
    """Every word and number in a value."""
    match value:
        case Scalar():
            yield value
        case Sequence():
            for item in value.items:
                yield from scalars(item)
        case Mapping():
            for item in value.items.values():
                yield from scalars(item)

"""YAML text to values that know their place."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from blockgraph.errors import Place, Problems, SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 200_000
MAX_SCALAR = 10_000
MAX_DIGITS = 20

# libyaml's event parser is iterative; only its composer recurses, and that is not used here.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The core schema of YAML 1.2: `no` and `on` are words, `6e-3` is a number, `010` is ten.
_WORDS = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_WORDS |= dict.fromkeys(["true", "True", "TRUE"], True) | dict.fromkeys(["false", "False", "FALSE"], False)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


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


def read(path: str | Path) -> Mapping:
    """Read a YAML file whose top level is a mapping; raise `SpecError` with every fault of its syntax."""
    name, path = str(path), Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refuse(f"cannot read the file: {error.strerror}", Place(name)) from None
    try:
        return parse(data.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refuse(f"byte {data[error.start]:#04x} is not UTF-8 text", Place(name, line)) from None


def parse(text: str, file: str = "<text>") -> Mapping:
    """Parse YAML text whose top level is a mapping; `file` is the name that errors give."""
    if len(text) > MAX_BYTES:
        raise _refuse(f"the file is larger than {MAX_BYTES} bytes", Place(file))
    value = parse_value(text, file)
    if not isinstance(value, Mapping):
        raise _refuse(f"expected `key: value` lines, found {describe(value)}", value.place)
    return value


def parse_value(text: str, file: str = "<text>") -> Value:
    """Parse YAML text of any kind, such as the value of a `key=value` override."""
    builder = _Builder(text, file)
    try:
        value = builder.document(iter(yaml.parse(text, Loader=_PARSER)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = builder.place(mark.line, mark.column) if mark else Place(file)
        raise _refuse(_sentence(error, place), place) from None
    except yaml.reader.ReaderError as error:
        raise _refuse(f"character {error.character!r} may not stand in YAML", Place(file)) from None
    builder.problems.stop_if_any()
    return value


def scalar(raw: str) -> str | int | float | bool | None:
    """The value of an unquoted word by the core schema of YAML 1.2."""
    if raw in _WORDS:
        return _WORDS[raw]
    if _INT.fullmatch(raw):
        return int(raw, 0) if raw[:2] in ("0x", "0o") else int(raw)
    if _FLOAT.fullmatch(raw):
        return float(raw.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").replace(".nan", "nan"))
    return raw


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
            return f"'{value.raw}'"
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"


@dataclass
class _Builder:
    """Composes values from parser events, with limits that no hostile file gets past."""

    text: str
    file: str
    problems: Problems = field(default_factory=Problems)
    count: int = 0

    def __post_init__(self) -> None:
        self.lines = self.text.splitlines()

    def place(self, line: int, column: int, width: int = 1) -> Place:
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.file, line + 1, column + 1, text, width)

    def document(self, events: Iterator[yaml.Event]) -> Value:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                value = self.value(next(events), events, 0)
                self.only_one(events)
                return value
        raise _refuse("the file is empty", Place(self.file))

    def only_one(self, events: Iterator[yaml.Event]) -> None:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise _refuse("a second document begins here; a file holds one", self.at(event))

    def at(self, event: yaml.Event) -> Place:
        start, end = event.start_mark, event.end_mark
        width = end.column - start.column if end.line == start.line else 1
        return self.place(start.line, start.column, max(1, width))

    def value(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Value:
        self.count += 1
        if depth > MAX_DEPTH:
            raise _refuse(f"nested deeper than {MAX_DEPTH} levels", self.at(event))
        if self.count > MAX_VALUES:
            raise _refuse(f"more than {MAX_VALUES} values", self.at(event))
        if isinstance(event, yaml.AliasEvent):
            raise _refuse("aliases are not part of the language; write the value out", self.at(event))
        self.refuse_properties(event)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        build = self.sequence if isinstance(event, yaml.SequenceStartEvent) else self.mapping
        return build(event, events, depth)

    def refuse_properties(self, event: yaml.Event) -> None:
        if getattr(event, "tag", None):
            self.problems.add(f"tags such as {event.tag} are not part of the language", self.at(event))
        if getattr(event, "anchor", None):
            self.problems.add("anchors are not part of the language; write the value out", self.at(event))

    def scalar(self, event: yaml.ScalarEvent) -> Scalar:
        raw, place = event.value, self.at(event)
        if len(raw) > MAX_SCALAR:
            raise _refuse(f"a word of more than {MAX_SCALAR} characters", place)
        if event.style or (event.implicit and not event.implicit[0]):
            return Scalar(raw, place, raw)
        if len(raw) > MAX_DIGITS and _INT.fullmatch(raw):
            self.problems.add(f"a number of more than {MAX_DIGITS} digits", place)
            return Scalar(None, place, raw)
        return Scalar(scalar(raw), place, raw)

    def sequence(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Sequence:
        items = []
        while not isinstance(following := next(events), yaml.SequenceEndEvent):
            items.append(self.value(following, events, depth + 1))
        return Sequence(tuple(items), self.at(event))

    def mapping(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Mapping:
        items: dict[str, Value] = {}
        keys: dict[str, Place] = {}
        while not isinstance(following := next(events), yaml.MappingEndEvent):
            key = self.value(following, events, depth + 1)
            value = self.value(next(events), events, depth + 1)
            self.enter(key, value, items, keys)
        return Mapping(items, keys, self.at(event))

    def enter(self, key: Value, value: Value, items: dict[str, Value], keys: dict[str, Place]) -> None:
        if not isinstance(key, Scalar):
            self.problems.add(f"a key is one word, found {describe(key)}", key.place)
        elif key.raw == "<<":
            self.problems.add("merge keys are not part of the language; write the keys out", key.place)
        elif key.raw in items:
            self.problems.add(f"'{key.raw}' is given twice; the first is on line {keys[key.raw].line}", key.place)
        else:
            items[key.raw], keys[key.raw] = value, key.place


def _sentence(error: yaml.MarkedYAMLError, place: Place) -> str:
    if "\t" in place.text[: place.column]:
        return "a tab may not indent YAML; use spaces"
    return f"not YAML: {error.problem}"


def _refuse(message: str, place: Place) -> SpecError:
    problems = Problems()
    problems.add(message, place)
    return SpecError(problems.found)

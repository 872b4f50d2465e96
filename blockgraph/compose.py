"""Events of a YAML parser to values with places, within limits that no hostile file gets past."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from blockgraph.errors import Place, Problem, Problems, SpecError
from blockgraph.values import Mapping, Scalar, Sequence, Value, describe, is_int, scalar

MAX_DEPTH = 32
MAX_VALUES = 200_000
MAX_SCALAR = 10_000  # characters
MAX_DIGITS = 20

# libyaml's event parser is iterative; only its composer recurses, and that is not used here.
_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_UNPRINTABLE = re.compile(f"{yaml.reader.Reader.NON_PRINTABLE.pattern}|\ufeff")  # what YAML forbids

# libyaml's sentences in the words of somebody who wrote the file, and whether the fault is where its part began.
_SENTENCES = {
    "did not find expected key": ("this belongs to no `key: value` line; check indentation and quotes", False),
    "mapping values are not allowed in this context": (
        "a second ':' in one line; put a value that holds one in quotes, or check the indentation",
        False,
    ),
    "could not find expected ':'": ("expected `key: value`", True),
    "found character that cannot start any token": ("a value may not begin with this; put it in quotes", False),
    "found unexpected end of stream": ("the quote is not closed", True),
    "did not find expected ',' or ']'": ("expected ',' or ']'", False),
    "did not find expected ',' or '}'": ("expected ',' or '}'", False),
    "did not find expected node content": ("expected a value", False),
    "did not find expected <document start>": ("this belongs to nothing above it", False),
    "block sequence entries are not allowed in this context": ("a list may not begin in this line", False),
}


def refuse(message: str, place: Place) -> SpecError:
    """The error of a text that cannot be read any further."""
    return SpecError([Problem(message, place)])


@dataclass
class Composer:
    """Composes the one value of a text; `problems` are the faults after which the rest could still be read."""

    text: str
    file: str
    problems: Problems = field(default_factory=Problems)
    count: int = 0

    def __post_init__(self) -> None:
        self.lines = self.text.splitlines()

    def compose(self) -> Value:
        """The value, or `SpecError` at the first fault that makes the text unreadable."""
        if bad := _UNPRINTABLE.search(self.text):
            raise refuse(f"the character {bad[0]!a} may not stand in YAML", self.place_at(bad.start()))
        try:
            return self.document(iter(yaml.parse(self.text, Loader=_PARSER)))
        except yaml.MarkedYAMLError as error:
            raise self.not_yaml(error) from None

    def place(self, line: int, column: int, width: int = 1) -> Place:
        """A place by its line and column, both counted from 0."""
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.file, line + 1, column + 1, text, width)

    def place_at(self, index: int) -> Place:
        """The place of a character of the text."""
        before = self.text[:index].splitlines(keepends=True) or [""]
        ended = before[-1].endswith(("\n", "\r"))
        return self.place(len(before) - (not ended), 0 if ended else len(before[-1]))

    def not_yaml(self, error: yaml.MarkedYAMLError) -> SpecError:
        """The error that libyaml's own stands for."""
        told, at_start = _SENTENCES.get(str(error.problem), (str(error.problem), False))
        start, mark = error.context_mark, error.problem_mark
        if start and mark and mark.line > start.line and "expected ','" in told:
            told, at_start = f"what opens here is not closed: {told} by line {mark.line + 1}", True
        mark = start if at_start and start else mark
        place = self.place(mark.line, mark.column) if mark else Place(self.file)
        indent = place.text[: len(place.text) - len(place.text.lstrip())]
        return refuse("a tab may not indent YAML; use spaces" if "\t" in indent else f"not YAML: {told}", place)

    def document(self, events: Iterator[yaml.Event]) -> Value:
        """The value of the first document, which has to be the only one."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                value = self.value(next(events), events, 0)
                self.only_one(events)
                return value
        raise refuse("the file is empty", Place(self.file))

    def only_one(self, events: Iterator[yaml.Event]) -> None:
        """Refuse whatever follows the first document."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise refuse("a second document begins here; a file holds one", self.at(event))

    def at(self, event: yaml.Event) -> Place:
        """The place of an event, underlined to its end where that is on the same line."""
        start, end = event.start_mark, event.end_mark
        assert start is not None, event
        assert end is not None, event
        width = end.column - start.column if end.line == start.line else 1
        return self.place(start.line, start.column, max(1, width))

    def value(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Value:
        """The value that begins with an event; it takes the events that belong to it."""
        self.count += 1
        if depth > MAX_DEPTH:
            raise refuse(f"nested deeper than {MAX_DEPTH} levels", self.at(event))
        if self.count > MAX_VALUES:
            raise refuse(f"more than {MAX_VALUES:,} values", self.at(event))
        if isinstance(event, yaml.AliasEvent):
            raise refuse("aliases are not part of the language; write the value out", self.at(event))
        self.refuse_properties(event)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        build = self.sequence if isinstance(event, yaml.SequenceStartEvent) else self.mapping
        return build(event, events, depth)

    def refuse_properties(self, event: yaml.Event) -> None:
        """A problem for a tag, and for an anchor."""
        assert isinstance(event, yaml.NodeEvent), event
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            self.problems.add("tags are not part of the language; leave it out", self.at(event))
        if event.anchor:
            self.problems.add("anchors are not part of the language; write the value out", self.at(event))

    def scalar(self, event: yaml.ScalarEvent) -> Scalar:
        """A word, or a number where it is not quoted."""
        raw, place = event.value, self.at(event)
        if len(raw) > MAX_SCALAR:
            raise refuse(f"a word of more than {MAX_SCALAR:,} characters", place)
        if bad := _UNPRINTABLE.search(raw):
            self.problems.add(f"the character {bad[0]!a} may not stand in a value", place)
        if event.style or (event.implicit and not event.implicit[0]):
            return Scalar(raw, place, raw)
        if len(raw) > MAX_DIGITS and is_int(raw):
            self.problems.add(f"a number of more than {MAX_DIGITS} digits", place)
            return Scalar(None, place, raw)
        return Scalar(scalar(raw), place, raw)

    def sequence(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Sequence:
        """A list."""
        items = []
        while not isinstance(following := next(events), yaml.SequenceEndEvent):
            items.append(self.value(following, events, depth + 1))
        return Sequence(tuple(items), self.at(event))

    def mapping(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Mapping:
        """A mapping, with a problem for every key that does not name one value."""
        found = Mapping({}, {}, self.at(event))
        while not isinstance(following := next(events), yaml.MappingEndEvent):
            key = self.value(following, events, depth + 1)
            self.enter(key, self.value(next(events), events, depth + 1), found)
        return found

    def enter(self, key: Value, value: Value, found: Mapping) -> None:
        """Put a value under its key."""
        if not isinstance(key, Scalar):
            self.problems.add(f"a key is one word, found {describe(key)}", key.place)
        elif key.raw == "<<":
            self.problems.add("merge keys are not part of the language; write the keys out", key.place)
        elif key.raw in found.items:
            self.problems.add(f"'{key.raw}' is given twice; the first is at {_at(found.keys[key.raw])}", key.place)
        else:
            found.items[key.raw], found.keys[key.raw] = value, key.place


def _at(place: Place) -> str:
    return f"{place.line}:{place.column}"

"""A spec's text with the extent of everything in it: lines put in, taken out and changed as a person would."""

import re
from collections import Counter
from collections.abc import Mapping as Table
from dataclasses import dataclass
from functools import cached_property

import yaml

from blockgraph.errors import SpecError
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, parse, scalars

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_COMMENT = re.compile(r"[^#\n'\"]*?( {2,})#")  # behind a value, with the spaces in front of it
GAP = 2  # spaces in front of a comment that ends a line

Keys = tuple[str, ...]
Pair = tuple[yaml.ScalarNode, yaml.Node]


@dataclass(frozen=True)
class Layout:
    """A text that has been read before, so that it is known to be sound; every change gives a new one."""

    text: str

    @cached_property
    def root(self) -> yaml.Node:
        """The text's values with their extent."""
        node = yaml.compose(self.text, Loader=_LOADER)
        assert node is not None
        return node

    def pairs(self, keys: Keys) -> dict[str, Pair]:
        """Keys and values of a mapping."""
        node = self.root
        for key in keys:
            node = _pairs(node)[key][1]
        return _pairs(node)

    def has(self, keys: Keys) -> bool:
        """Whether a value is written there."""
        return keys[-1] in self.pairs(keys[:-1])

    def written(self, keys: Keys) -> str:
        """A value as it is written."""
        node = self.pairs(keys[:-1])[keys[-1]][1]
        return self.text[node.start_mark.index : _end(node)]

    def replaced(self, keys: Keys, new: str, item: int | None = None) -> "Layout":
        """With another value, or another item of a list, in the place of one."""
        node = self.pairs(keys[:-1])[keys[-1]][1]
        if item is not None:
            assert isinstance(node, yaml.SequenceNode)
            node = node.value[item]
        start, end = node.start_mark.index, _end(node)
        return self.changed((start, end, new), *self.kept_comment(end, len(new) - (end - start)))

    def changed(self, *changes: tuple[int, int, str]) -> "Layout":
        """With new texts in the place of old ones."""
        text = self.text
        for start, end, new in sorted(changes, reverse=True):
            text = text[:start] + new + text[end:]
        return Layout(text)

    def keyed(self, keys: Keys, new: str, behind: tuple[str, ...]) -> "Layout":
        """With a further key in a mapping, behind the last of those that are written there."""
        *above, name = keys
        pairs = self.pairs(tuple(above))
        last = [pair for key, pair in pairs.items() if key in behind][-1]
        if self.flows(tuple(above)):
            end, added = _end(last[1]), f", {name}: {new}"
            return self.changed((end, end, added), *self.kept_comment(end, len(added)))
        indent = " " * last[0].start_mark.column
        end = self.line_end(_end(last[1]))
        return self.changed((end, end, f"\n{indent}{name}: {new}"))

    def flows(self, keys: Keys) -> bool:
        """Whether a mapping is written in braces."""
        node = self.root
        for key in keys:
            node = _pairs(node)[key][1]
        return isinstance(node, yaml.MappingNode) and bool(node.flow_style)

    def put_after(self, keys: Keys, name: str, body: str) -> "Layout":
        """With a member behind another one."""
        key, value = self.pairs(keys[:-1])[keys[-1]]
        if self.flows(keys[:-1]):
            return self.changed((_end(value), _end(value), f", {name}: {body}"))
        wide = self.widened(keys[:-1], name)
        key, value = wide.pairs(keys[:-1])[keys[-1]]
        end = wide.line_end(_end(value))
        return wide.changed((end, end, f"\n{wide.line(keys[:-1], name, body, key.start_mark.column)}"))

    def put_before(self, keys: Keys, name: str, body: str) -> "Layout":
        """With a member in front of another one and of the comments above that."""
        key, _ = self.pairs(keys[:-1])[keys[-1]]
        if self.flows(keys[:-1]):
            return self.changed((key.start_mark.index, key.start_mark.index, f"{name}: {body}, "))
        wide = self.widened(keys[:-1], name)
        key, _ = wide.pairs(keys[:-1])[keys[-1]]
        start = wide.above_comments(wide.line_start(key.start_mark.index), key.start_mark.column)
        return wide.changed((start, start, f"{wide.line(keys[:-1], name, body, key.start_mark.column)}\n"))

    def without(self, keys: Keys) -> "Layout":
        """Without a member; comments above it stay, because they may be about more than it."""
        key, value = self.pairs(keys[:-1])[keys[-1]]
        start, end = key.start_mark.index, _end(value)
        if not self.flows(keys[:-1]):
            return self.changed((self.line_start(start), self.line_end(end) + 1, ""))
        rest = self.text[end:]
        comma = len(rest) - len(rest.lstrip()) + 1 if rest.lstrip().startswith(",") else 0
        blank = len(rest[comma:]) - len(rest[comma:].lstrip(" ")) if comma else 0
        return self.changed((start, end + comma + blank, ""))

    def line(self, keys: Keys, name: str, body: str, indent: int) -> str:
        """The line of a new member, its value under those of its neighbours."""
        column = self.column(keys) or 0
        return f"{' ' * indent}{name}:".ljust(max(column, indent + len(name) + 2)) + body

    def column(self, keys: Keys) -> int | None:
        """The column in which most values of a mapping stand below one another; None where they do not."""
        pairs = self.aligned(keys)
        if not pairs:
            return None
        column, count = Counter(value.start_mark.column for _, value in pairs).most_common(1)[0]
        lengths = {len(key.value) for key, value in pairs if value.start_mark.column == column}
        return column if 2 * count > len(pairs) and len(lengths) > 1 else None

    def aligned(self, keys: Keys) -> list[Pair]:
        """Members whose value stands beside its key."""
        return [
            (key, value) for key, value in self.pairs(keys).values() if key.start_mark.line == value.start_mark.line
        ]

    def widened(self, keys: Keys, name: str) -> "Layout":
        """With room for a longer name in front of a column of values."""
        column = self.column(keys)
        if column is None:
            return self
        aligned = [pair for pair in self.aligned(keys) if pair[1].start_mark.column == column]
        more = aligned[0][0].start_mark.column + len(name) + 2 - column
        if more <= 0:
            return self
        return self.changed(*(change for _, value in aligned for change in self.moved(value, more)))

    def moved(self, value: yaml.Node, more: int) -> list[tuple[int, int, str]]:
        """Changes that move a value to the right, its further lines with it, and leave a comment where it is."""
        start, end = value.start_mark.index, _end(value)
        breaks = [at + 1 for at in range(start, end) if self.text[at] == "\n"]
        changes = [(at, at, " " * more) for at in (start, *breaks)]
        return [*changes, *self.kept_comment(end, more)]

    def kept_comment(self, end: int, more: int) -> list[tuple[int, int, str]]:
        """The change that leaves a comment in its column, where the line in front of it grows or shrinks."""
        found = _COMMENT.match(self.text, end)
        if found is None or not more:
            return []
        start, stop = found.span(1)
        return [(start, stop, " " * max(GAP, stop - start - more))]

    def line_start(self, index: int) -> int:
        """Where the line of a character begins."""
        return self.text.rfind("\n", 0, index) + 1

    def line_end(self, index: int) -> int:
        """Where the line of a character ends."""
        end = self.text.find("\n", index)
        return len(self.text) if end < 0 else end

    def above_comments(self, start: int, column: int) -> int:
        """The beginning of the comments that stand right above a line, in its column."""
        while start > 0:
            above = self.line_start(start - 1)
            line = self.text[above : start - 1]
            if not line.startswith(" " * column + "#"):
                break
            start = above
        return start


def flowed(value: Value, added: Table[str, str] | None = None) -> str:
    """A value in braces and brackets on one line; `added` are further keys of a mapping, behind its first one."""
    match value:
        case Mapping(items=items):
            pairs = [(key, flowed(item)) for key, item in items.items()]
            pairs[1:1] = list((added or {}).items())
            return "{" + ", ".join(f"{key}: {text}" for key, text in pairs) + "}"
        case Sequence(items=listed):
            return "[" + ", ".join(map(flowed, listed)) + "]"
        case Scalar(value=str()):
            return quoted(value.raw, "k: [{}]")
    return value.raw


def quoted(word: str, within: str = "k: {}") -> str:
    """A word as YAML, in quotes where the text around it would not leave it one."""
    try:
        found = list(scalars(parse(within.format(word))))
    except SpecError:
        found = []
    safe = [item.value for item in found] == [word]
    return word if safe else "'" + word.replace("'", "''") + "'"


def _pairs(node: yaml.Node) -> dict[str, Pair]:
    assert isinstance(node, yaml.MappingNode)
    return {key.value: (key, value) for key, value in node.value}


def _end(node: yaml.Node) -> int:
    """Where a value ends; a block of lines ends with its last value, not with the blank lines behind it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)

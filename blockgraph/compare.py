"""What differs between two graphs: nodes added, removed, changed and rewired, in words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from blockgraph.dims import Number, Size
from blockgraph.figure.align import align
from blockgraph.figure.flat import Entry, Flat, Value, flat
from blockgraph.graph import Graph


@dataclass(frozen=True)
class Diff:
    """Two graphs and what differs; prints as words, and shows both figures side by side in a notebook.

    `match` gives the slot in `b` for each in `a` that is the same node, whatever it is called. The other fields are
    keyed by slots: removed ones of `a`, all others of `b`; the texts say from what to what.
    """

    a: Graph
    b: Graph
    match: Mapping[str, str]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    rewired: Mapping[str, tuple[str, ...]]
    general: tuple[str, ...]

    @cached_property
    def sides(self) -> tuple[Flat, Flat]:
        """Both graphs with their blocks put in."""
        return flat(self.a), flat(self.b)

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.rewired or self.general)

    def __str__(self) -> str:
        return "\n".join(_told(self))

    def _repr_svg_(self) -> str:
        from blockgraph.drawing import svg  # the figure needs the comparison, and only notebooks the other way round

        return svg(self)


def compare(a: Graph, b: Graph) -> Diff:
    """What has to happen to `a` so that it becomes `b`."""
    first, second = flat(a), flat(b)
    match = align(first, second)
    back = {new: old for old, new in match.items()}
    pairs = [(entry, second.entries[match[slot]]) for slot, entry in first.entries.items() if slot in match]
    removed = tuple(slot for slot in first.entries if slot not in match)
    added = tuple(slot for slot in second.entries if slot not in back)
    stacks = [(entry, second.stacks[slot]) for slot, entry in first.stacks.items() if slot in second.stacks]
    changed = {new.slot: texts for old, new in [*pairs, *stacks] if (texts := tuple(_changes(old, new)))}
    wiring = _Wiring(first, second, match, frozenset(removed), frozenset(added))
    rewired = {new.slot: texts for old, new in pairs if (texts := tuple(wiring.changes(old, new)))}
    return Diff(a, b, match, removed, added, changed, rewired, tuple(_general(a, b)))


def _changes(old: Entry, new: Entry) -> Iterator[str]:
    """Fields that differ, with both values."""
    if old.node.path != new.node.path:
        yield f"was {old.node.path}"
    if old.node.op.name != new.node.op.name:
        yield f"op: {old.node.op.name} → {new.node.op.name}"
        return
    for name in type(new.node.op).model_fields:
        before, after = getattr(old.node.op, name), getattr(new.node.op, name)
        if before != after and _text(old, before) != _text(new, after) and not (name == "of" and new.node.blocks):
            yield f"{name}: {_text(old, before)} → {_text(new, after)}"


def _text(entry: Entry, value: object) -> str:
    if isinstance(value, Size):
        return entry.graph.dims.show(value)
    if isinstance(value, Number):
        return value.text
    if value is None:
        return "nothing"
    kind = getattr(value, "kind", None)
    return f"{kind} {value.number.text}" if kind else str(value)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Wiring:
    """Both graphs, to see which inputs come from elsewhere once what was added or removed is seen through."""

    first: Flat
    second: Flat
    match: Mapping[str, str]
    removed: frozenset[str]
    added: frozenset[str]

    def changes(self, old: Entry, new: Entry) -> Iterator[str]:
        """Inputs that read something else; a node put on an edge, or taken off it, rewires nothing."""
        if new.node.op.variadic():
            before = set().union(*(self.before(v) for v in old.inputs.values()))
            after = set().union(*(self.after(v) for v in new.inputs.values()))
            if before != after:
                yield f"reads {_names(after)} instead of {_names(before)}"
            return
        for port in {**old.inputs, **new.inputs}:
            own = {Value(new.slot, port, True)} if port in new.node.op.weights else set()
            before = self.before(old.inputs[port]) if port in old.inputs else own
            after = self.after(new.inputs[port]) if port in new.inputs else own
            if not before or not after or not (before <= after or after <= before):
                yield f"{port} reads {_names(after)} instead of {_names(before)}"

    def before(self, value: Value) -> set[Value]:
        """What an input of the first graph comes from among the nodes that stayed, by their slots in the second."""
        return {
            Value(self.match.get(v.slot, v.slot), v.port, v.owned) for v in _through(self.first, value, self.removed)
        }

    def after(self, value: Value) -> set[Value]:
        """What an input of the second graph comes from among the nodes that stayed."""
        return set(_through(self.second, value, self.added))


def _through(graph: Flat, value: Value, passed: frozenset[str]) -> Iterator[Value]:
    """The values behind the nodes that are seen through."""
    pending, seen = [value], {value}
    while pending:
        value = pending.pop()
        if value.slot not in passed or value.owned:
            yield value
            continue
        inputs = {v for v in graph.entries[value.slot].inputs.values() if v not in seen}
        pending += inputs
        seen |= inputs


def _names(values: set[Value]) -> str:
    return ", ".join(sorted(_name(value) for value in values)) or "nothing"


def _name(value: Value) -> str:
    slot = value.slot.removeprefix("in:")
    return f"{slot}.{value.port}" if value.port not in ("", "out") else slot


def _general(a: Graph, b: Graph) -> Iterator[str]:
    """What differs apart from nodes: dims, inputs, outputs."""
    for name in sorted({*a.dims.sizes} & {*b.dims.sizes}):
        old, new = a.dims.sizes[name].known, b.dims.sizes[name].known
        if old != new:
            yield f"dim {name}: {old} → {new}"
    for what, old_names, new_names in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        yield from (f"{what} {name} removed" for name in old_names if name not in new_names)
        yield from (f"{what} {name} added" for name in new_names if name not in old_names)


def _told(diff: Diff) -> Iterator[str]:
    """One line for each difference, with its line of the spec."""
    first, second = diff.sides
    names = f"{diff.a.name} → {diff.b.name}"
    yield f"{names}: {_counted(diff)}" if diff else f"{names}: no difference"
    yield from (f"changed  {text}" for text in diff.general)
    for slot in diff.added:
        yield _line("added", second.entries[slot], second.entries[slot].node.op.name)
    for slot in diff.removed:
        yield _line("removed", first.entries[slot], first.entries[slot].node.op.name)
    for slot, texts in diff.changed.items():
        yield _line("changed", second.entries.get(slot) or second.stacks[slot], "; ".join(texts))
    for slot, texts in diff.rewired.items():
        yield _line("rewired", second.entries[slot], "; ".join(texts))


def _counted(diff: Diff) -> str:
    counts = (("added", diff.added), ("removed", diff.removed), ("changed", diff.changed), ("rewired", diff.rewired))
    return ", ".join(f"{len(found)} {word}" for word, found in counts if found) or "other dims, inputs or outputs"


def _line(word: str, entry: Entry, text: str) -> str:
    place = entry.node.place
    path = entry.slot.replace("@", ".").replace("/", ".")
    return f"{word:<8} {path}: {text}    [{place}: {' '.join(place.text.split())}]"

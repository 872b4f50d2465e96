"""What differs between two graphs: nodes added, removed, changed and rewired, in words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from blockgraph.dims import Number, Size
from blockgraph.errors import Place
from blockgraph.fields import Init
from blockgraph.figure.align import align
from blockgraph.figure.flat import Entry, Flat, Value, flat
from blockgraph.graph import Graph


@dataclass(frozen=True)
class Diff:
    """Two graphs and what differs; prints as words, and shows both figures side by side in a notebook.

    `match` gives the slot in `b` for each in `a` that is the same node, whatever it is called. The other fields are
    keyed by slots: removed ones of `a`, all others of `b`; the texts say from what to what. An output that is rewired
    has the slot `out:NAME`.
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
    rewired |= {f"out:{name}": texts for name in second.outputs if (texts := tuple(wiring.of_output(name)))}
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
    if isinstance(value, Init):
        return f"{value.kind} {value.number.text}"
    return "nothing" if value is None else str(value)


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
            if not _alike(before, after):
                yield f"{port} reads {_names(after)} instead of {_names(before)}"

    def of_output(self, name: str) -> Iterator[str]:
        """What an output of both graphs gives, where that is something else."""
        if name in self.first.outputs:
            before, after = self.before(self.first.outputs[name]), self.after(self.second.outputs[name])
            if not _alike(before, after):
                yield f"reads {_names(after)} instead of {_names(before)}"

    def before(self, value: Value) -> set[Value]:
        """What an input of the first graph comes from among the nodes that stayed, by their slots in the second."""
        return {
            Value(self.match.get(v.slot, v.slot), v.port, v.owned) for v in _through(self.first, value, self.removed)
        }

    def after(self, value: Value) -> set[Value]:
        """What an input of the second graph comes from among the nodes that stayed."""
        return set(_through(self.second, value, self.added))


def _alike(before: set[Value], after: set[Value]) -> bool:
    """Whether an input comes from the same, as far as what was added or removed lets that be seen."""
    return bool(before and after) and (before <= after or after <= before)


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
    """What differs apart from nodes: who sees later tokens, dims, inputs, outputs."""
    if a.causal != b.causal:
        yield f"causal: {a.causal} → {b.causal}".lower()
    for name in sorted({*a.dims.sizes} & {*b.dims.sizes}):
        old, new = a.dims.sizes[name].known, b.dims.sizes[name].known
        if old != new:
            yield f"dim {name}: {old} → {new}"
    for name in (name for name in a.inputs if name in b.inputs and a.inputs[name].sizes != b.inputs[name].sizes):
        before, after = (graph.dims.shape(graph.inputs[name].sizes) for graph in (a, b))
        if before != after:
            yield f"input {name}: {before} → {after}"
    for what, old_names, new_names in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        yield from (f"{what} {name} removed" for name in old_names if name not in new_names)
        yield from (f"{what} {name} added" for name in new_names if name not in old_names)


def _told(diff: Diff) -> Iterator[str]:
    """One line for each difference, with its line of the spec."""
    first, second = diff.sides
    names = f"{diff.a.name} → {diff.b.name}"
    yield f"{names}: {_counted(diff)}" if diff else f"{names}: no difference"
    yield from (f"changed  {text}" for text in diff.general)
    for word, slots, graph in (("added", diff.added, second), ("removed", diff.removed, first)):
        yield from (
            _line(word, slot, graph.entries[slot].node.place, graph.entries[slot].node.op.name) for slot in slots
        )
    for slot, texts in diff.changed.items():
        entry = second.entries.get(slot) or second.stacks[slot]
        yield _line("changed", slot, entry.node.place, "; ".join(texts))
    for slot, texts in diff.rewired.items():
        name = slot.removeprefix("out:")
        place = second.entries[slot].node.place if slot in second.entries else diff.b.places[f"outputs.{name}"]
        yield _line("rewired", name if slot in second.entries else f"the output {name}", place, "; ".join(texts))


def _counted(diff: Diff) -> str:
    counts = (("added", diff.added), ("removed", diff.removed), ("changed", diff.changed), ("rewired", diff.rewired))
    return ", ".join(f"{len(found)} {word}" for word, found in counts if found) or "other dims, inputs or outputs"


def _line(word: str, slot: str, place: Place, text: str) -> str:
    path = slot.replace("@", ".").replace("/", ".")
    return f"{word:<8} {path}: {text}    [{place}: {' '.join(place.text.split())}]"

"""What each node reads: the values that `in` and its weight ports name, or the node above."""

from dataclasses import dataclass

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.graph import LOST, Ref
from blockgraph.schema import word
from blockgraph.scope import Entry, Unresolved, resolve, value_of
from blockgraph.syntax import Mapping, Scalar, Sequence, Value

Inputs = dict[str, Ref]


@dataclass
class Wiring:
    """Resolves the names that nodes read; one that stands for nothing is told and becomes `LOST`."""

    problems: Problems

    def data(self, entry: Entry) -> Inputs:
        """Values on the data ports, by `in` or from the node above; a stack's ports are those of its first block."""
        assert entry.op is not None
        ports = tuple(entry.blocks[entry.plan[0]].inputs) if entry.blocks else entry.op.ports()
        required = ports if entry.blocks else entry.op.required()
        many = entry.op.variadic() and not entry.blocks
        text = entry.text.items.get("in")
        if text is None:
            return self.above(entry, required, many)
        if isinstance(text, Mapping) and not many:
            return self.by_port(entry, ports, required, text)
        items = text.items if isinstance(text, Sequence) else (text,)
        if many:
            ports = required = tuple(map(str, range(len(items))))
        return self.in_order(entry, ports, required, items, text.place)

    def loose(self, entry: Entry) -> Inputs:
        """Every value that a line at fault seems to read, so that none of them counts as unused."""
        text = entry.text.items.get("in")
        read = {str(index): self.named(item, entry) for index, item in enumerate(_parts(text))}
        if text is None and (entry.above is not None or len(entry.scope.root().inputs) == 1):
            read = {"above": self.of_above(entry)}
        words = {key: value.raw for key, value in entry.text.items.items() if key != "in" and isinstance(value, Scalar)}
        return read | {key: ref for key, raw in words.items() if (ref := self.quietly(raw, entry)) is not None}

    def in_order(
        self, entry: Entry, ports: tuple[str, ...], required: tuple[str, ...], items: tuple[Value, ...], place: Place
    ) -> Inputs:
        """Values given as a list; those that may be left out come last."""
        if len(items) > len(ports) or (len(items) < len(required) and not entry.blocks):
            self.fault(entry, f"reads {_values(ports, required) or 'nothing'}, found {len(items)}", place)
            return {"?": LOST} | {str(index): self.named(item, entry) for index, item in enumerate(items)}
        return {port: self.named(item, entry) for port, item in zip(ports, items, strict=False)}

    def by_port(self, entry: Entry, ports: tuple[str, ...], required: tuple[str, ...], text: Mapping) -> Inputs:
        """Values given by the names of the ports; a stack takes every name that one of its blocks reads."""
        inputs = {port: self.named(item, entry) for port, item in text.items.items()}
        known = {name for block in entry.blocks for name in block.inputs} or set(ports)
        unknown = [port for port in inputs if port not in known]
        for port in unknown:
            hint = near_miss(port, known) or (f"ports are {', '.join(ports)}" if ports else "it reads nothing")
            self.fault(entry, f"no port is called '{port}'", text.keys[port], hint)
        missing = [port for port in required if port not in inputs] if not entry.blocks else []
        for port in missing if not unknown else ():
            self.fault(entry, f"nothing is wired to the port '{port}'", text.place)
        if unknown:
            return inputs | {"?": LOST}
        return inputs if entry.blocks else {p: inputs.get(p, LOST) for p in ports if p in inputs or p in required}

    def above(self, entry: Entry, ports: tuple[str, ...], many: bool) -> Inputs:
        """The node above, for an op that reads one value."""
        if not ports and not many:
            return {}
        if len(ports) != 1:
            self.fault(entry, f"reads {_values(ports) or 'two or more values'}; write `in: [..., ...]`", entry.place)
            return {"?": LOST}
        return {ports[0]: self.of_above(entry)}

    def of_above(self, entry: Entry) -> Ref:
        """The value of the node above, or for the first node the one input."""
        inputs = entry.scope.root().inputs
        if entry.above is None and len(inputs) == 1:
            return Ref("input", inputs[0])
        try:
            if entry.above is None:
                raise Unresolved("has no node above it to read; write `in: ...`")
            return value_of(entry.above)
        except Unresolved as error:
            if error.message:
                of_node = "" if entry.above is None else "the node above, "
                self.fault(entry, f"{of_node}{error.message}", entry.place)
            return LOST

    def named(self, text: Value, entry: Entry) -> Ref:
        """The value that a word names."""
        name = word(text, f"{entry.path}: a value", self.problems)
        if name is None:
            return LOST
        try:
            return resolve(name, entry.scope)
        except Unresolved as error:
            if error.message:
                self.problems.add(error.message, text.place, error.hint)
            return LOST

    def quietly(self, name: str, entry: Entry) -> Ref | None:
        """The value that a word may name."""
        try:
            return resolve(name, entry.scope)
        except Unresolved:
            return None

    def fault(self, entry: Entry, message: str, place: Place, hint: str = "") -> None:
        """A problem of one node."""
        self.problems.add(f"{entry.label}: {message}", place, hint)


def _values(ports: tuple[str, ...], required: tuple[str, ...] | None = None) -> str:
    count = str(len(ports)) if required in (None, ports) else f"{len(required or ())} to {len(ports)}"
    return f"{count} value{'s' * (len(ports) > 1)} ({', '.join(ports)})" if ports else ""


def _parts(text: Value | None) -> tuple[Value, ...]:
    match text:
        case None:
            return ()
        case Sequence(items=items):
            return items
        case Mapping(items=named):
            return tuple(named.values())
    return (text,)

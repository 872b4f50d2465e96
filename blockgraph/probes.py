"""Checked graph to the series that a run of it can record, and where each comes from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from blockgraph.canonical import digest
from blockgraph.errors import Place, Problems, closest
from blockgraph.graph import Graph, Node, Ref
from blockgraph.patterns import matching
from blockgraph.probe import OUTPUT, Group, Probe, Quantity, sizes, value

GROUPS: Mapping[Group, str] = {
    "norms": "L2 norms of every linear's X, Y and dX, and of every W and dW (2410.16682, Tables 1 and 2)",
    "attention": "the largest logit, how sharp the rows are, what caps and clips take away, gains of the norms",
    "outputs": "what the layers and the model give",
    "linears": "L2 norm, RMS and maximum of every linear's X, Y, dX and dY",
    "weights": "the same of every parameter and its gradient",
    "updates": "the update of every parameter, before the learning rate",
    "experts": "how busy the experts of a mixture are, and what a block adds to the loss",
}
GAINS = (
    Quantity("rms", "rms", ("attention",), "RMS of the product of both norms' gains, feature by feature"),
    Quantity("max", "max", ("attention",), "largest absolute value of the product of both norms' gains"),
)
UPDATE = Quantity("update_rms", "rms", ("updates",), "RMS of the update before the learning rate, without decay")
LOG_Z = Quantity("log_z", "mean", ("outputs",), "mean of log(sum(exp(logits)))", "nats")
WORDS = Place("probes", 0)


@dataclass(frozen=True, slots=True)
class Point:
    """A probe in a graph: its place, by node path or output name, and the values that its text names."""

    place: str
    probe: Probe
    values: Mapping[str, Ref]
    node: Node | None = None

    def name(self, quantity: Quantity) -> str:
        """Name of a series within the graph."""
        return ".".join(word for word in (self.place, self.probe.name, quantity.name) if word)

    @property
    def key(self) -> str:
        """What tells it from the other points of its graph."""
        return self.name(self.probe.quantities[0])


@dataclass(frozen=True, slots=True)
class Reading:
    """One series, and where it comes from.

    A record: `point`, in the module whose names begin with `owner` and whose graph has the digest `graph`. A weight,
    a gradient or an update: the parameter of the name `owner`. The loss: what is known where it is made.
    """

    name: str
    quantity: Quantity
    source: Literal["record", "weight", "gradient", "update", "loss"]
    owner: str
    graph: str = ""
    point: Point | None = None


@dataclass(frozen=True)
class Probes:
    """What a run records: the series in order, and by the digest of each graph in it the points that it records."""

    series: tuple[Reading, ...] = ()
    points: Mapping[str, Mapping[str, Point]] = field(default_factory=dict)

    def of(self, graph: Graph) -> tuple[Point, ...]:
        """The points of a graph in the order of the rows that they are recorded in."""
        return tuple(self.points[digest(graph)].values()) if self.points and digest(graph) in self.points else ()


def chosen(graph: Graph, words: Sequence[str], places: Sequence[Place] = ()) -> list[str]:
    """Names of the series that groups, names and patterns stand for.

    Raises `SpecError` at the place of each word that stands for none.
    """
    known = {reading.name: reading for reading in readings(graph)} if words else {}
    problems, names = Problems(), set[str]()
    for word, place in zip(words, places or [WORDS] * len(words), strict=True):
        found = [name for name in known if word in known[name].quantity.groups] or matching(word, known)
        names.update(found)
        if not found and word not in GROUPS:
            problems.add(f"no series is called '{word}'", place, _hint(word, known))
    problems.stop_if_any()
    return [name for name in known if name in names]


def recorded(graph: Graph, names: Sequence[str]) -> Probes:
    """The series of these names, as far as the graph has them."""
    known = {reading.name: reading for reading in readings(graph)} if names else {}
    series = tuple(known[name] for name in names if name in known)
    points: dict[str, dict[str, Point]] = {}
    for reading in series:
        if reading.point:
            points.setdefault(reading.graph, {})[reading.point.key] = reading.point
    return Probes(series, points)


def readings(graph: Graph) -> Iterator[Reading]:
    """Every series that a run of the graph can record, from the first layer to the last, however it is lowered."""
    seen: dict[int, tuple[str, list[Point]]] = {}
    for prefix, inner, shared in _modules(graph.unfused()):
        if id(inner) not in seen:
            seen[id(inner)] = digest(inner), list(_points(inner))
        code, points = seen[id(inner)]
        for point in points:
            for quantity in point.probe.quantities:
                yield Reading(prefix + point.name(quantity), quantity, "record", prefix, code, point)
        yield from _of_parameters(prefix, inner, shared)
    if graph.kind == "model":
        yield Reading(f"logits.{LOG_Z.name}", LOG_Z, "loss", "")


def _hint(word: str, known: Mapping[str, Reading]) -> str:
    """The near miss, with a star for each number where the word has one."""
    starred = {".".join("*" if part.isdecimal() else part for part in name.split(".")) for name in known}
    close = closest(word, {*GROUPS, *starred}) or closest(word, known)
    return f"did you mean '{close}'?" if close else f"known are {', '.join(GROUPS)} and patterns such as '**.l2'"


def _modules(
    graph: Graph, prefix: str = "", shared: tuple[str, ...] = ()
) -> Iterator[tuple[str, Graph, tuple[str, ...]]]:
    """The graph and those of its layers, with the prefix of their names, and the names that others own."""
    yield prefix, graph, shared
    for node in graph.nodes.values():
        for layer, index in enumerate(node.plan):
            inner = f"{prefix}{node.path}.{layer}."
            others = tuple(f"{inner}{path}." for path in node.op.sharing()) if layer else ()
            yield from _modules(node.blocks[index], inner, (*shared, *others))


def _of_parameters(prefix: str, graph: Graph, shared: tuple[str, ...]) -> Iterator[Reading]:
    for node in graph.nodes.values():
        for param in node.params:
            home = f"{prefix}{node.home}."
            name = f"{home}{param.name}"
            if name.startswith(shared):
                continue
            for quantity in sizes(f"the parameter {param.name}", "norms", "weights"):
                yield Reading(f"{name}.{quantity.name}", quantity, "weight", name)
            for quantity in sizes(f"the gradient by {param.name}", "norms", "weights", unit="nats"):
                yield Reading(f"{home}d{param.name}.{quantity.name}", quantity, "gradient", name)
            yield Reading(f"{name}.{UPDATE.name}", UPDATE, "update", name)


def _points(graph: Graph) -> Iterator[Point]:
    """What one graph can record, in running order; its layers are graphs of their own."""
    for node in graph.nodes.values():
        if not node.blocks:
            yield from _of_node(graph, node)
    for name, ref in graph.outputs.items():
        yield Point(name, OUTPUT, {"out": ref})


def _of_node(graph: Graph, node: Node) -> Iterator[Point]:
    own = {param.name: Ref("param", node.path, param.name) for param in node.params}
    values = own | dict(node.inputs) | {"out": Ref("node", node.path, node.outputs[0])}
    for probe in node.op.probes(*(graph.type_of(ref) for ref in node.data().values())):
        yield Point(node.path, probe, values, node)
    for port in node.op.weights:
        ref = node.inputs.get(port)
        kind = graph.type_of(ref) if ref and ref.kind == "node" else None
        if kind:
            name = "effective" if port == "weight" else f"effective_{port}"
            probe = value(
                name, f"{{{port}}}", f"the {port} that arrives", "norms", "linears", entries=kind.entries.known
            )
            yield Point(node.path, probe, values, node)
    yield from _gains(graph, node)


def _gains(graph: Graph, node: Node) -> Iterator[Point]:
    """The gains of the norms before a product of queries and keys, where both have one of the same shape."""
    kinds = [graph.type_of(ref) for ref in node.data().values()]
    if len(kinds) != 2 or not node.types[node.outputs[0]].pairs:
        return
    a, b = (_factor(graph, ref) for ref in node.data().values())
    if a and b and graph.type_of(a[1]) == graph.type_of(b[1]):
        text = f"moments(({a[0].format('{a}')}) * ({b[0].format('{b}')}))"
        yield Point(node.path, Probe("gains", GAINS, text), {"a": a[1], "b": b[1]}, node)


def _factor(graph: Graph, ref: Ref) -> tuple[str, Ref] | None:
    """What multiplied the features of a value last, as text and parameter; length-keeping ops do not hide it."""
    while ref.kind == "node":
        node = graph.nodes[ref.owner]
        text = node.op.feature_gain(weight="{}") if "weight" in {param.name for param in node.params} else ""
        if text:
            return text, Ref("param", node.path, "weight")
        if not node.op.keeps_length:
            return None
        (ref,) = node.data().values()
    return None

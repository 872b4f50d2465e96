"""Checked graph to the text of a Python module: one class for each distinct block, over plain torch functions."""

import json
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from blockgraph.caching import refusals
from blockgraph.canonical import canonical, digest
from blockgraph.classes import ClassText
from blockgraph.errors import SpecError
from blockgraph.graph import Graph
from blockgraph.layout import docstring
from blockgraph.names import unique
from blockgraph.probes import Probes
from blockgraph.recompute import NOTHING
from blockgraph.sources import Sources, import_lines, sources

NO_PROBES = Probes()
_BUILD = '''\
def build(seed: int | None = 0) -> {name}:
    """The module with its initial values, which `seed` and each parameter's name decide; None leaves them unset."""
    module = {name}()
    if seed is not None:
        module.initialize(seed)
    return module'''


def lower(graph: Graph, probes: Probes = NO_PROBES, recompute: tuple[str, ...] = NOTHING, cached: bool = False) -> str:
    """Python text that needs torch alone and holds the graph's class, its blocks' classes and `build(seed)`.

    A class of which something is probed also has `probed`, a forward pass that records it. `recompute` names nodes and
    groups of the blocks that the backward pass computes again. Where it is `cached`, every class has `extend` too,
    which takes new tokens alone. Raises `SpecError` when a function of a user's op has the name of one that every
    module carries, and for a cache that is not known to be right.
    """
    if cached and (problems := refusals(graph)):
        raise SpecError(problems)
    known = sources(type(node.op) for _, _, node in graph.walk())
    classes = _Classes(known, probes, recompute, cached)
    root = classes.of(graph)
    definitions, imports = known.needed(classes.texts)
    parts = ["\n".join(_about(graph)), import_lines(imports), *definitions, *classes.texts, _BUILD.format(name=root)]
    head = "\n\n".join(parts[:2])
    return "\n\n\n".join([head, *parts[2:]]) + "\n"


def _about(graph: Graph) -> list[str]:
    sizes = ", ".join(f"{name} = {size.known}" for name, size in graph.dims.sizes.items() if size.known is not None)
    origin = f"Compiled by blockgraph{_version()} from the {graph.kind} {graph.name}, digest {digest(graph)}."
    origin = f"{origin} Change the spec, not this file."
    lowered = [f"Lowered {decision}." for decision in graph.decisions]
    return docstring(f"{graph.title or graph.name}.", origin, f"Sizes: {sizes}." if sizes else "", *lowered)


def _version() -> str:
    """The version in words; a checkout that is not installed has none."""
    try:
        return f" {version('blockgraph')}"
    except PackageNotFoundError:
        return ""


@dataclass
class _Classes:
    """The classes written so far, by what they compute."""

    sources: Sources
    probes: Probes
    recompute: tuple[str, ...]
    cached: bool
    names: dict[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def of(self, graph: Graph, recompute: tuple[str, ...] = NOTHING, shared: tuple[str, ...] = ()) -> str:
        """Name of the class of a graph; its text is written the first time."""
        called = [graph.name, *graph.inputs, *graph.outputs]  # by position, of which the canonical form tells nothing
        key = json.dumps([called, canonical(graph), shared], sort_keys=True)
        if key not in self.names:
            inner = {
                node.path: tuple(self.of(block, self.recompute, node.op.sharing()) for block in node.blocks)
                for node in graph.nodes.values()
            }
            carried = {*self.sources.definitions, *self.sources.imports}
            word = "".join(part.capitalize() for part in graph.name.split("_"))
            self.names[key] = name = unique(word, {*self.names.values(), *carried})
            points = self.probes.of(graph)
            text = ClassText(graph, name, inner, shared, carried, points, recompute, self.cached)
            self.texts.append(text.text())
        return self.names[key]

"""Checked graph to a graph in which fused ops stand for chains of nodes, with every choice and its reason."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from blockgraph.errors import OpError, Place, Problem, SpecError, near_miss
from blockgraph.fusion import Decision, Fusion, Step, Target
from blockgraph.graph import Graph, Node, Ref

AUTO, EXPLICIT = "auto", "explicit"

Fusions = Mapping[str, type[Fusion]]


def fuse(
    graph: Graph,
    fusions: Fusions,
    lowering: str | Mapping[str, str] = AUTO,
    target: Target | None = None,
) -> Graph:
    """The graph with each chain that fits a fusion lowered as asked; `decisions` of the result tells all of them.

    A chain that is decided already stays as it is. `lowering` is `auto`, `explicit` (node by node), the name of a
    fusion, or one of these for each core by its name.
    Raises `SpecError` for a fusion that is asked for and cannot do what the chain does, and for a name that stands for
    none.
    """
    names = (AUTO, EXPLICIT, *fusions)
    for name in (lowering,) if isinstance(lowering, str) else lowering.values():
        if name not in names:
            hint = near_miss(name, names) or f"lowerings are {', '.join(names)}"
            raise SpecError([Problem(f"no lowering is called '{name}'", Place("lowering", 0), hint)])
    return _Pass(fusions, lowering, target or Target()).run(graph)


@dataclass(frozen=True)
class _Pass:
    fusions: Fusions
    lowering: str | Mapping[str, str]
    target: Target

    def run(self, graph: Graph) -> Graph:
        """The graph, and those inside it, with fused ops."""
        decisions = {decision.core: decision for decision in graph.decisions}
        nodes = dict(graph.nodes)
        for path, node in graph.nodes.items():
            blocks = tuple(self.run(block) for block in node.blocks)
            nodes[path] = replace(node, blocks=blocks)
            decisions |= {decision.core: decision for block in blocks for decision in block.decisions}
        for chain in self.chains(graph):
            if f"{graph.name}.{chain[-1].path}" in decisions:
                continue
            decision, fused = self.decide(graph, chain)
            decisions[decision.core] = decision
            if fused:
                nodes = {path: node for path, node in nodes.items() if path not in {node.path for node in chain[:-1]}}
                nodes[fused.path] = fused
        return replace(graph, nodes=nodes, decisions=tuple(decisions.values()))

    def chains(self, graph: Graph) -> list[tuple[Node, ...]]:
        """Every chain that fits a pattern, each once."""
        readers = graph.users()
        patterns = dict.fromkeys(fusion.pattern for fusion in self.fusions.values())
        starts = ((node, steps) for node in graph.nodes.values() for steps in patterns)
        return [chain for node, steps in starts for chain in _fitting(graph, readers, (node,), steps)]

    def decide(self, graph: Graph, chain: tuple[Node, ...]) -> tuple[Decision, Node | None]:
        """How a chain is lowered, and the node that takes its place; None where it stays as it is."""
        core = f"{graph.name}.{chain[-1].path}"
        wanted = self.lowering if isinstance(self.lowering, str) else self.lowering.get(core, AUTO)
        fit, why_not = self.candidates(graph, chain)
        if wanted in why_not:
            message = f"{chain[0].path} to {chain[-1].path} cannot be lowered to {wanted}: {why_not[wanted]}"
            raise SpecError([Problem(message, chain[0].place, f"what can be: {', '.join([EXPLICIT, *fit])}")])
        if wanted == AUTO:
            name, reason, others = self.best(fit)
        else:
            name, reason = wanted, "as asked for" if isinstance(self.lowering, str) else "as decided before"
            others = dict.fromkeys([EXPLICIT, *fit], "not asked for")
        others = {other: why for other, why in (others | why_not).items() if other != name}
        return Decision(core, tuple(node.name for node in chain), name, reason, others), fit.get(name)

    def candidates(self, graph: Graph, chain: tuple[Node, ...]) -> tuple[dict[str, Node], dict[str, str]]:
        """The node that each fusion would put in the chain's place, and why the others cannot."""
        fit, why_not = {}, {}
        shared = _shared(graph, chain)
        for name, fusion in self.fusions.items():
            try:
                op, inputs = fusion.of(chain, graph)
            except OpError as error:
                why_not[name] = str(error)
                continue
            if why := shared or op.lacks(self.target):
                why_not[name] = why
            else:
                fit[name] = replace(chain[-1], op=op, inputs=inputs, replaces=chain)
        return fit, why_not

    def best(self, fit: Mapping[str, Node]) -> tuple[str, str, dict[str, str]]:
        """What `auto` takes, why, and why none of the others."""
        merits = {name: node.op.merit(self.target) for name, node in fit.items() if isinstance(node.op, Fusion)}
        merits[EXPLICIT] = (1, "none of the others is better here")
        name = max(merits, key=lambda name: merits[name])
        others = {other: why if merit == 0 else f"{name} is better here" for other, (merit, why) in merits.items()}
        return name, f"auto: {merits[name][1]}", others


def _fitting(
    graph: Graph, readers: Mapping[Ref, list[str]], chain: tuple[Node, ...], steps: tuple[Step, ...]
) -> Iterator[tuple[Node, ...]]:
    """Every way to go on from a chain, whose last node is to fill the first step, to one that fits all steps."""
    first, *rest = steps
    if first.optional:
        yield from _fitting(graph, readers, chain, tuple(rest))
    if not isinstance(chain[-1].op, first.ops):
        return
    if not rest:
        yield chain
        return
    following = {
        path: None for port in chain[-1].outputs for path in readers.get(Ref("node", chain[-1].path, port), ())
    }
    for path in following:
        yield from _fitting(graph, readers, (*chain, graph.nodes[path]), steps if first.repeats else tuple(rest))


def _shared(graph: Graph, chain: tuple[Node, ...]) -> str:
    """Who else reads a value inside a chain; empty when nobody does."""
    readers, outputs = graph.users(), set(graph.outputs.values())
    for node, following in pairwise(chain):
        value = Ref("node", node.path, node.outputs[0])
        others = [path for path in readers[value] if path != following.path]
        if others or readers[value].count(following.path) > 1:
            return f"{node.path} is also read by {', '.join(others or [following.path])}"
        if value in outputs:
            return f"{node.path} is an output"
    return ""

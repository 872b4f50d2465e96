"""Nodes of blocks whose values are not kept for the backward pass, where they are computed again."""

from collections.abc import Iterator, Sequence

from blockgraph.errors import Place, Problem, SpecError, near_miss
from blockgraph.graph import Graph, Node

NOTHING: tuple[str, ...] = ()
EVERYTHING = ("",)  # the path that all others begin with


def again(node: Node, names: Sequence[str]) -> bool:
    """Whether a node of a block is named, by itself or with a group around it; a stack inside a block never is.

    One that stands for a chain has to be named with all of it.
    """
    return not node.blocks and all(_is_named(part, names) for part in node.replaces or (node,))


def _is_named(node: Node, names: Sequence[str]) -> bool:
    return any(not name or f"{node.dotted}.".startswith(f"{name}.") for name in names)


def refuse_unknown(graph: Graph, names: Sequence[str], place: Place) -> None:
    """Raise `SpecError` for names that stand for nothing in any block of a model's stacks."""
    known = {path for block in _blocks(graph) for path in (*block.groups, *_paths(block))}
    unknown = [name for name in names if name and name not in known]
    if unknown:
        hint = "a node or a group of a block is expected" if known else "the model has no blocks"
        told = ((f"no block has a node or group '{name}'", near_miss(name, known) or hint) for name in unknown)
        raise SpecError(Problem(message, place, hint) for message, hint in told)


def _paths(block: Graph) -> Iterator[str]:
    return (part.path for node in block.nodes.values() for part in (node, *node.replaces))


def _blocks(graph: Graph) -> Iterator[Graph]:
    for node in graph.nodes.values():
        for block in node.blocks:
            yield block
            yield from _blocks(block)

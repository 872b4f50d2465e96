"""The shipped blocks as the frame of all figures that fit into it, so that two files compare side by side."""

from collections.abc import Sequence
from dataclasses import replace

from blockgraph.figure.picture import PLAIN, Detail, Picture, picture
from blockgraph.graph import Graph
from blockgraph.library import shipped
from blockgraph.load import load


def variants(graph: Graph, pictures: Sequence[Picture], detail: Detail = PLAIN) -> list[Picture]:
    """Pictures of the shipped blocks, each in the graph's stack if it has one, when they show all that these do.

    A figure is mostly looked at beside another one, in a paper or in two windows. So a block that is made of the
    shipped blocks' nodes leaves room for those that it lacks, and a node has one place in all of them.
    """
    shown = [picture(variant, detail) for variant in _in_place(graph)]
    known = {slot for variant in shown for slot in variant.items}
    wanted = {slot for drawn in pictures for slot, item in drawn.items.items() if item.status != "removed"}
    return shown if wanted <= known else []


def _in_place(graph: Graph) -> list[Graph]:
    blocks = shipped_blocks()
    stacks = [path for path, node in graph.nodes.items() if len(node.blocks) == 1]
    if not stacks:
        return blocks
    return [
        replace(graph, nodes={
            path: replace(node, blocks=(block,)) if path in stacks else node for path, node in graph.nodes.items()
        })
        for block in blocks
        if all(set(block.outputs) == set(graph.nodes[path].blocks[0].outputs) for path in stacks)
    ]  # fmt: skip


def shipped_blocks() -> list[Graph]:
    """The blocks that ship with the package, checked."""
    found = []
    for name, path in shipped().items():
        if path.parent.name == "blocks":
            found.append(load(name))
    return found

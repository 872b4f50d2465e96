"""`blockgraph show`: what every node is and costs."""

import argparse
from collections.abc import Iterable, Iterator

from blockgraph.commands.common import add_settings, graph_of, whole
from blockgraph.cost import TRAIN_BYTES, Cost, Row, cost
from blockgraph.graph import Graph, Node

HELP = "table of nodes with shapes, parameters and FLOPs; totals; memory to train"
EXAMPLE = "blockgraph show gpt --set block=qk_norm --seq 4096"

HEADINGS = ("node", "op", "shape", "parameters", "FLOPs", "share")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("spec", metavar="SPEC", help="a path, or the name of a shipped spec")
    parser.add_argument("--batch", type=whole(1), default=1, help="sequences, for the FLOPs (default 1)")
    parser.add_argument("--seq", type=whole(1), default=1024, help="tokens of a sequence (default 1024)")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    graph = graph_of(args.spec, args)
    print("\n".join([*table(graph, args.batch, args.seq), "", *totals(cost(graph), args.batch, args.seq)]))
    return 0


def table(graph: Graph, batch: int, seq: int) -> list[str]:
    """Lines of the table: parameters and FLOPs of one layer, with the number of layers at the stack."""
    costs = cost(graph)
    cells: list[tuple[str, ...]] = [HEADINGS]
    for row, block in _by_block(costs.rows):
        cells += [(block, *[""] * (len(HEADINGS) - 1))] if block else []
        cells.append(_cells(row, costs, batch, seq))
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = ["  ".join(_pad(cell, width, column) for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
             for line in cells]  # fmt: skip
    return [lines[0].rstrip(), "  ".join("-" * width for width in widths), *(line.rstrip() for line in lines[1:])]


def totals(costs: Cost, batch: int, seq: int) -> list[str]:
    """Lines below the table."""
    forward, tokens = costs.flops(batch, seq), batch * seq
    return [
        f"parameters       {costs.parameters:,}",
        f"forward FLOPs    {forward:.4g} in matrix products for {batch} x {seq} tokens, {forward / tokens:.4g} a token",
        f"training FLOPs   {3 * forward:.4g} a step: forward, and twice that backward",
        f"memory to train  {_bytes(costs.train_bytes)} without activations: {TRAIN_BYTES} bytes a parameter",
        "                 (fp32 weights, gradients and AdamW's two moments)",
    ]


def _by_block(rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
    """The rows; of a stack of several blocks, each block's first row with what tells it from the others."""
    several: dict[int, bool] = {}
    before: dict[int, Graph] = {}
    for row in rows:
        begins = several.get(row.depth, False) and before.get(row.depth) is not row.graph
        yield row, f"{'  ' * row.depth}{row.graph.name} × {row.layers}" if begins else ""
        before[row.depth] = row.graph
        if row.node.blocks:
            several[row.depth + 1] = len(row.node.blocks) > 1
            before.pop(row.depth + 1, None)


def _cells(row: Row, costs: Cost, batch: int, seq: int) -> tuple[str, ...]:
    total = costs.flops(batch, seq)
    work = row.flops(batch, seq)
    name = "  " * row.depth + row.node.dotted + (f" × {len(row.node.plan)}" if row.node.blocks else "")
    return (
        name,
        row.node.op.name,
        _shape(row.graph, row.node),
        f"{row.parameters:,}" if row.parameters else "",
        f"{work:.3g}" if work else "",
        f"{100 * work * row.layers / total:.1f} %" if work and total else "",
    )


def _shape(graph: Graph, node: Node) -> str:
    return ", ".join(graph.dims.shape(kind.sizes) for kind in dict.fromkeys(node.types.values()))


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 3 else cell.rjust(width)


def _bytes(count: int) -> str:
    scaled, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while scaled >= 1000 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    return f"{scaled:.4g} {units[0]}"

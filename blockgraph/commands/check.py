"""`blockgraph check`: validates specs."""

import argparse
import sys

from blockgraph.commands.common import add_settings, graph_of
from blockgraph.cost import cost
from blockgraph.errors import SpecError

HELP = "validate specs; print one line for each"
EXAMPLE = "blockgraph check my_block.yaml gpt --set n_layers=4"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="a path, or the name of a shipped spec")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Check every spec, also after one that is at fault."""
    failed = False
    for spec in args.specs:
        try:
            graph = graph_of(spec, args)
        except SpecError as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            count = len(graph.nodes)
            print(f"{spec}: ok: {graph.kind} {graph.name}, {count} nodes, {cost(graph).parameters:,} parameters")
    return int(failed)

"""`blockgraph diff`: what two graphs differ in."""

import argparse

from blockgraph.commands.common import add_settings, graph_of

HELP = "nodes added, removed, changed and rewired, in words or side by side"
EXAMPLE = "blockgraph diff baseline qk_norm -o difference.svg"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("a", metavar="A", help="a path, or the name of a shipped spec")
    parser.add_argument("b", metavar="B", help="likewise")
    parser.add_argument("-o", "--output", metavar="FILE", help="also draw both side by side; the suffix is the format")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the difference, and draw it."""
    from blockgraph.compare import compare
    from blockgraph.drawing import beside, save, suffix

    if args.output is not None:
        suffix(args.output)
    difference = compare(graph_of(args.a, args), graph_of(args.b, args))
    print(difference)
    if args.output is not None:
        print(f"wrote {save(beside(difference), args.output)}")
    return 0

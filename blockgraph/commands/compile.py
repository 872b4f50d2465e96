"""`blockgraph compile`: writes a graph as Python."""

import argparse
import sys

from blockgraph.commands.common import add_settings, graph_of
from blockgraph.files import write
from blockgraph.lower import lower

HELP = "write the module as readable Python that needs torch alone"
EXAMPLE = "blockgraph compile gpt --set block=qk_norm --set size=small -o module.py"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("spec", metavar="SPEC", help="a path, or the name of a shipped spec")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the file to write; - (default) prints it")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Write or print the text."""
    text = lower(graph_of(args.spec, args))
    if args.output == "-":
        sys.stdout.write(text)
    else:
        print(f"wrote {write(args.output, text)}")
    return 0

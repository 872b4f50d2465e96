"""`blockgraph render`: draws a graph, or what it changes against another."""

import argparse

from blockgraph.commands.common import add_settings, graph_of, own_ops, settings
from blockgraph.load import load

HELP = "draw a figure: .svg .pdf .png .dot .mmd .tex"
EXAMPLE = "blockgraph render qk_norm -o qk_norm.svg --diff baseline"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("spec", metavar="SPEC", help="a path, or the name of a shipped spec")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file; its suffix is the format")
    parser.add_argument("--diff", metavar="BASE", help="mark what SPEC adds to, removes from and changes in this one")
    parser.add_argument("--shapes", action="store_true", help="print what flows along the edges, as numbers with --set")
    parser.add_argument("--cost", action="store_true", help="print parameters and forward FLOPs of every node")
    parser.add_argument("--seq", type=_positive, default=1024, help="tokens of a sequence, for --cost (default 1024)")
    parser.add_argument("--title", help="the title, in place of the spec's own; '' for none")
    parser.add_argument("--no-legend", action="store_true", help="leave out the legend")
    parser.add_argument(
        "--compact", action="store_true", help="close the rows that are kept free so that the shipped blocks line up"
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Draw and say where."""
    from blockgraph.compare import compare
    from blockgraph.drawing import Options, changes, figure, for_base, save, suffix
    from blockgraph.figure.picture import Detail

    suffix(args.output)
    graph = graph_of(args.spec, args)
    detail = Detail(("numbers" if args.settings else "names") if args.shapes else "", args.cost, seq=args.seq)
    options = Options(detail, args.title, not args.no_legend, not args.compact)
    if args.diff is None:
        drawn = figure(graph, options)
    else:
        values, places = settings(args)
        base = load(args.diff, ops=own_ops(args.ops), places=places, **for_base(graph, values))
        drawn = changes(compare(base, graph), options)
    print(f"wrote {save(drawn, args.output)}")
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, found '{text}'")
    return int(text)

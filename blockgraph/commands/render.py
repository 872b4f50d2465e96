"""`blockgraph render`: draws a graph, or what it changes against another."""

import argparse
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from blockgraph.commands.common import add_settings, graph_of, own_ops, settings, whole
from blockgraph.errors import Place, Problem, SpecError
from blockgraph.load import load

if TYPE_CHECKING:
    from blockgraph.figure.heat import Measured

READERS = "blockgraph.measured"  # entry points: a function of run, quantity, layer and step

QUANTITY = "y.l2"  # what runs record unless they are told otherwise
NO_RUN = "--stats RUN names the run whose measurements colour the figure"

HELP = "draw a figure: .svg .pdf .png .dot .mmd .tex"
EXAMPLE = "blockgraph render qk_norm -o qk_norm.svg --diff baseline"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("spec", metavar="SPEC", help="a path, or the name of a shipped spec")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file; its suffix is the format")
    among = parser.add_mutually_exclusive_group()
    among.add_argument("--diff", metavar="BASE", help="mark what SPEC adds to, removes from and changes in this one")
    among.add_argument("--stats", metavar="RUN", type=Path, help="colour the nodes by what this run measured")
    parser.add_argument("--quantity", metavar="NAME", help=f"what, for --stats (default {QUANTITY})")
    parser.add_argument("--layer", metavar="N", type=whole(0), help="for --stats (default: the largest of all layers)")
    parser.add_argument("--step", metavar="N", type=whole(0), help="for --stats (default: the last one)")
    parser.add_argument("--shapes", action="store_true", help="print what flows along the edges, as numbers with --set")
    parser.add_argument("--cost", action="store_true", help="print parameters and forward FLOPs of every node")
    parser.add_argument("--seq", type=whole(1), default=1024, help="tokens of a sequence, for --cost (default 1024)")
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
    options = Options(detail, args.title, not args.no_legend, not args.compact, _measured(args))
    if args.diff is None:
        drawn = figure(graph, options)
    else:
        values, places = settings(args)
        base = load(args.diff, ops=own_ops(args.ops), places=places, **for_base(graph, values))
        drawn = changes(compare(base, graph), options)
    print(f"wrote {save(drawn, args.output)}")
    return 0


def _measured(args: argparse.Namespace) -> "Measured | None":
    """What the run of `--stats` measured; the runners, which alone can read it, join by an entry point."""
    if args.stats is None:
        given = [f"--{name}" for name in ("quantity", "layer", "step") if vars(args)[name] is not None]
        if given:
            raise SpecError([Problem(f"{' and '.join(given)} without --stats", Place("<command line>", 0), NO_RUN)])
        return None
    for reader in entry_points(group=READERS, name="run"):
        found: Measured = reader.load()(args.stats, args.quantity or QUANTITY, args.layer, args.step)
        return found
    raise SpecError([Problem("nothing that reads runs is installed", Place(str(args.stats), 0))])

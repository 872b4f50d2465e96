"""`blockgraph compile`: writes a graph as Python."""

import argparse
import sys
from pathlib import Path

from blockgraph.caching import explained as cache_explained
from blockgraph.commands.common import add_settings, graph_of, whole
from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import write
from blockgraph.fused import FUSIONS
from blockgraph.fusion import Target
from blockgraph.graph import Decision, Graph
from blockgraph.losses import with_losses
from blockgraph.lower import lower
from blockgraph.passes import AUTO, EXPLICIT, fuse

HELP = "write the module as readable Python that needs torch alone"
EXAMPLE = """blockgraph compile gpt --set block=qk_norm --set size=small -o module.py
  blockgraph compile soft_cap --explain --seq 4096 --precision bf16 --device cpu
  blockgraph compile gpt --set size=paper --cache --explain"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("spec", metavar="SPEC", help="a path, or the name of a shipped spec")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the file to write; - (default) prints it")
    parser.add_argument(
        "--lowering", choices=(AUTO, EXPLICIT, *FUSIONS), default=AUTO,
        help="how the attention core is computed; auto (default) is explicit where the length is not known",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true", help="print how each core is lowered and why; -o still writes"
    )
    parser.add_argument(
        "--cache", action="store_true",
        help="also write `extend`, which takes new tokens alone; with --explain, what it keeps of earlier ones",
    )  # fmt: skip
    parser.add_argument(
        "--losses", action="store_true", help="also put out, last, the sum of what nodes add to the loss of a run"
    )
    parser.add_argument("--seq", type=whole(1), help="tokens of a sequence, for auto")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="of the activations, for auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where the module will run, for auto")
    parser.add_argument("--compiled", action="store_true", help="torch.compile will take the blocks, for auto")
    parser.add_argument(
        "--native", action="store_true", help="the CPU has AVX-512 and there is a C++ compiler, for auto"
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Write or print the text, or the choices behind it."""
    if Path(args.output).suffix in (".yaml", ".yml"):
        told = "a module is Python, and this is the name of a spec"
        raise SpecError([Problem(told, Place(args.output, 0), "name a .py file with -o")])
    target = Target(args.seq, args.precision, args.device, args.compiled, args.native)
    graph = graph_of(args.spec, args)
    graph = fuse(with_losses(graph) if args.losses else graph, FUSIONS, args.lowering, target)
    if args.explain:
        print("\n".join(explained(graph)))
    if args.explain and args.cache:
        print("\n".join(cache_explained(graph, args.precision or "bf16")))
    if args.output != "-":
        print(f"wrote {write(args.output, lower(graph, cached=args.cache))}")
    elif not args.explain:
        sys.stdout.write(lower(graph, cached=args.cache))
    return 0


def explained(graph: Graph) -> list[str]:
    """Lines of a table: every core of attention, how it is lowered and why, and why not in the other ways."""
    if not graph.decisions:
        return [f"{graph.name} has no attention core: a product, softmax and a product, with nothing else between"]
    return [line for decision in graph.decisions for line in _lines(decision)]


def _lines(decision: Decision) -> list[str]:
    width = max(map(len, (decision.lowering, *decision.others)))
    rows = [(decision.lowering, "yes", decision.reason), *((name, "no", why) for name, why in decision.others.items())]
    head = f"{decision.core}: {', '.join(decision.steps)}"
    return [head, *(f"  {name.ljust(width)}  {taken:<3}  {why}" for name, taken, why in rows)]

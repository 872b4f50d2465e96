"""`blockgraph sample`: text that a trained model writes behind a prompt."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blockgraph.caching import explained, is_fixed, refusals
from blockgraph.commands.common import add_ops, own_ops
from blockgraph.errors import Place, Problem, SpecError
from blockgraph.graph import Graph, Ref
from runners.outcome import BAD_INPUT
from runners.telling import Teller

if TYPE_CHECKING:
    import torch

    from runners.trained import Trained
    from runners.writing import Writer

INTERRUPTED = 130
PRECISIONS = ("bf16", "fp32")
MIB = 2**20
DESCRIPTION = """Write text behind a prompt with a trained model: a run, of which the newest good checkpoint is taken
(it may still be training), or a folder that `blockgraph export` or `blockgraph import` wrote. What earlier tokens leave
behind is kept in a cache that is derived from the graph; where none can be proven right, every token computes all
again, and the reason is told. A model that reads another text, as an encoder does, is given it by --source. Text goes
to stdout as it comes, all else to stderr."""
EXAMPLE = """example:
  blockgraph sample runs/demo --prompt "The state of the union" --tokens 100
  blockgraph sample demo-model --prompt "My fellow" --temperature 0.8 --top-p 0.95 --seed 1 --samples 3
  cat question.txt | blockgraph sample runs/demo --prompt -
  blockgraph sample imported --source "translate English to German: The house is small." --temperature 0
  blockgraph sample runs/demo --explain
"""


@dataclass(frozen=True)
class Spent:
    """How long a prompt and the tokens behind it took."""

    prompt: int
    first_s: float
    tokens: int
    rest_s: float

    def __str__(self) -> str:
        rate = f", {(self.tokens - 1) / self.rest_s:,.1f} tokens/s" if self.tokens > 1 and self.rest_s > 0 else ""
        return f"{self.prompt} tokens read in {self.first_s:.2f} s, {self.tokens} written{rate}"


def command(arguments: list[str]) -> int:
    """Write text behind a prompt with a trained model; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.prompt == options.source == "-":
        parser.error("--prompt and --source cannot both be read from stdin")
    try:
        return _run(options)
    except SpecError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph sample",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="the directory of a run, or of an exported or imported model")
    add("--prompt", metavar="TEXT", default="", help="what to go on from; - reads stdin; left out, a new document")
    add("--source", metavar="TEXT", help="the other text of a model that reads two; - reads stdin")
    add("--tokens", metavar="N", type=_count, default=200, help="most tokens to write (default 200)")
    add("--temperature", metavar="T", type=_real(0.0), default=1.0, help="0 takes the likeliest (default 1)")
    add("--top-k", metavar="K", type=_count, help="draw from the K likeliest tokens")
    add("--top-p", metavar="P", type=_real(0.0, 1.0), help="draw from the fewest that have probability P together")
    add("--seed", metavar="N", type=int, default=0, help="of the draws; equal seeds give equal text (default 0)")
    add("--samples", metavar="N", type=_count, default=1, help="texts to write, at once (default 1)")
    add("--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is one)")
    add("--precision", choices=PRECISIONS, help="of the activations (default: the run's, else bf16 on cuda)")
    add("--no-cache", action="store_true", help="compute all again for every token")
    add("--explain", action="store_true", help="print what the cache keeps and its bytes a token, or why there is none")
    add_ops(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    from runners.trained import trained  # torch takes seconds; a mistake in usage is told before

    found = trained(options.run, own_ops(options.ops))
    _refuse_inputs(found, options.source)
    device, precision = _device(options.device), options.precision
    precision = precision or found.precision or ("bf16" if device.type == "cuda" else "fp32")
    if options.explain:
        print("\n".join(explained(found.graph, precision)))
        return 0
    prompt, source = _prompt(options.prompt, found), _source(options.source, found)
    _refuse_length(found, len(prompt), options.tokens, len(source))
    writer = _writer(found, len(prompt) + options.tokens, device, precision, options)
    writer.others = {name: _rows(source, options.samples, device) for name in others(found.graph)}
    return _write(options, found, writer, _rows(prompt, options.samples, device))


def _writer(
    found: "Trained", capacity: int, device: "torch.device", precision: str, options: argparse.Namespace
) -> "Writer":
    from blockgraph.fused import FUSIONS
    from blockgraph.fusion import Target
    from blockgraph.passes import AUTO, fuse
    from runners.trainer import DTYPES
    from runners.writing import Writer

    problems = [] if options.no_cache else refusals(found.graph)
    for problem in problems:
        print(f"no cache: {problem.line.replace(': error: ', ': ')}", file=sys.stderr)
    cached = not options.no_cache and not problems
    target = Target(capacity, "bf16" if precision == "bf16" else "fp32", device.type, False)
    graph = found.graph if cached else fuse(found.graph, FUSIONS, AUTO, target)
    model = found.model(graph, device, DTYPES[precision], cached)
    return Writer(model, capacity, found.tokenizer.vocab, found.tokenizer.end, cached)


def _write(options: argparse.Namespace, found: "Trained", writer: "Writer", rows: "torch.Tensor") -> int:
    from runners.writing import Choice, written

    choice = Choice(options.temperature, options.top_k, options.top_p)
    prompt: list[int] = rows[0].tolist()
    teller = Teller(options.samples, found.tokenizer.bytes_of, found.tokenizer.decode(prompt))
    steps = written(writer, rows, options.tokens, choice, options.seed)
    try:
        spent = _told(steps, teller, len(prompt))
    except ArithmeticError as error:
        raise SpecError([Problem(str(error), Place(str(found.path), 0), "has the run diverged?")]) from None
    finally:
        teller.close()
    cache = f"; cache: {writer.cache.bytes / MIB:,.1f} MiB" if writer.cache else ""
    print(f"{spent}{cache}", file=sys.stderr)
    return 0


def _told(steps: Iterable[list[int | None]], teller: Teller, prompt: int) -> Spent:
    """Write the tokens as they come."""
    began, count, first = time.perf_counter(), 0, 0.0
    for tokens in steps:
        first = first or time.perf_counter() - began
        count += 1
        teller.tell(tokens)
    return Spent(prompt, first, count, time.perf_counter() - began - first)


def _prompt(text: str, found: "Trained") -> list[int]:
    """The tokens to go on from, behind the one that documents begin behind."""
    start = [] if found.start is None else [found.start]
    tokens = [*start, *found.tokenizer.encode(_given(text))]
    if not tokens:
        raise SpecError(
            [Problem("the prompt has no tokens, and the model no symbol to begin with", Place("--prompt", 0))]
        )
    return tokens


def _source(text: str | None, found: "Trained") -> list[int]:
    """The tokens of the other text, with the one that ends documents behind them."""
    return [] if text is None else [*found.tokenizer.encode(_given(text)), found.tokenizer.end]


def _given(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _rows(tokens: list[int], count: int, device: "torch.device") -> "torch.Tensor":
    import torch

    return torch.tensor([tokens] * count, device=device)


def others(graph: Graph) -> list[str]:
    """Inputs that no token has a row of: another text, or whatever else is the same for all of them."""
    return [name for name in graph.inputs if is_fixed(graph, Ref("input", name))]


def _refuse_inputs(found: "Trained", source: str | None) -> None:
    """Refuse a model that reads more than texts, or tells something else than the next token."""
    from runners.spec import DOCUMENTS

    graph, place = found.graph, Place(str(found.path), 0)
    more = others(graph)
    tokens = [name for name in graph.inputs if name not in (DOCUMENTS, *more)]
    texts = all(kind.kind == "int" for kind in graph.inputs.values()) and len(more) <= 1
    if graph.kind != "model" or not texts or len(tokens) != 1 or len(graph.outputs) != 1:
        told = f"the {graph.kind} reads {', '.join(graph.inputs)} and gives {', '.join(graph.outputs)}"
        hint = "text is written by a model that reads `tokens`, and at most one text besides, and gives logits"
        raise SpecError([Problem(told, place, hint)])
    if more and source is None:
        raise SpecError([Problem(f"the model reads another text, '{more[0]}'", place, "give it by --source TEXT")])
    if source is not None and not more:
        raise SpecError([Problem("the model reads no other text than the prompt", Place("--source", 0))])


def _refuse_length(found: "Trained", prompt: int, tokens: int, source: int) -> None:
    """Refuse more tokens than a node takes; the last one that is written is not read again."""
    asked = prompt + tokens - 1
    for node, longest, alone in _bounds(found):
        if alone and source > longest:
            told = f"{node} takes {longest:,} tokens, and the source has {source:,}"
            raise SpecError([Problem(told, Place(str(found.path), 0), "shorten it")])
        if not alone and asked > longest:
            told = f"{node} takes {longest:,} tokens, and {prompt:,} of the prompt with {tokens:,} more need {asked:,}"
            room = longest - prompt + 1
            hint = f"--tokens {room} is the most" if room > 0 else f"shorten the prompt by {1 - room:,} tokens"
            raise SpecError([Problem(told, Place(str(found.path), 0), hint)])
    if found.seq is not None and asked > found.seq:
        told = f"{asked:,} tokens are more than the {found.seq:,} that the run was trained on at once"
        print(f"note: {told}; text beyond may be poor", file=sys.stderr)


def _bounds(found: "Trained") -> Iterator[tuple[str, int, bool]]:
    """Nodes with the most tokens that they take, and whether those are the tokens of the other text alone."""
    for prefix, graph, node in found.graph.walk():
        longest = node.op.longest()
        if longest is not None and longest.known is not None:
            alone = all(is_fixed(graph, ref) for ref in node.inputs.values())
            yield f"{prefix}{node.path} ({node.op.name})", longest.known, alone


def _device(name: str | None) -> "torch.device":
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        told = f"no device is called '{name}' here"
        raise SpecError([Problem(told, Place("--device", 0), "cpu is always there")]) from None
    return device


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, found '{text}'")
    return int(text)


class _real:
    """A real number between bounds, as argparse reads one."""

    def __init__(self, least: float, most: float = float("inf")):
        self.least, self.most = least, most

    def __call__(self, text: str) -> float:
        """The number."""
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not self.least <= number <= self.most or number == float("inf"):
            most = f" and at most {self.most:g}" if self.most != float("inf") else ""
            raise argparse.ArgumentTypeError(f"a number of at least {self.least:g}{most}, found '{text}'")
        return number

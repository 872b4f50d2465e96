"""What the commands share: `--set`, `--ops`, and the graph that they ask for."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from blockgraph.errors import Place, Problems
from blockgraph.graph import Graph
from blockgraph.load import load
from blockgraph.op import Op
from blockgraph.ops import OPS
from blockgraph.own import ops_of


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options by which a spec's dims and slots are set and the user's own ops are found."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="a dim, a slot or `size`: --set n_layers=4 --set block=qk_norm --set size=tiny",
    )  # fmt: skip
    add_ops(parser)


def add_ops(parser: argparse.ArgumentParser) -> None:
    """The option that adds the user's own ops."""
    parser.add_argument("--ops", action="append", default=[], metavar="FILE.py", help="a Python file with own ops")


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least so much."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least}, found '{text}'")
        return int(text)

    return number


def settings(args: argparse.Namespace) -> tuple[dict[str, str], dict[str, Place]]:
    """The `--set` options by key, and where each was written; raises `SpecError` for one without `=`."""
    values: dict[str, str] = {}
    problems = Problems()
    for text in args.settings:
        key, equals, value = text.partition("=")
        if not (equals and key and value):
            problems.add(f"--set takes KEY=VALUE, found '{text}'", Place("<command line>", 0))
        values[key] = value
    problems.stop_if_any()
    return values, {key: Place("<command line>", 0) for key in values}


def graph_of(spec: str, args: argparse.Namespace) -> Graph:
    """The checked graph of a spec with the settings of the command line."""
    values, places = settings(args)
    return load(spec, ops=own_ops(args.ops), places=places, **values)


def own_ops(files: list[str]) -> Mapping[str, type[Op]]:
    """The op table with the ops of the user's files added; raises `SpecError` when one cannot be read."""
    ops = dict(OPS)
    for file in files:
        ops |= ops_of(Path(file))
    return ops

"""`blockgraph ops`: the reference of the ops."""

import argparse
import inspect
import textwrap
from collections.abc import Iterator
from functools import partial

from pydantic.fields import FieldInfo

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.dims import Number, Size
from blockgraph.errors import Place, Problem, SpecError, near_miss
from blockgraph.op import Op

HELP = "the op reference: all ops, or one in full"
EXAMPLE = "blockgraph ops layer_norm"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="the op to describe; all in short when left out")
    add_ops(parser)


def run(args: argparse.Namespace) -> int:
    """Print the reference."""
    ops = own_ops(args.ops)
    if args.name is None:
        print("\n".join(f"{name:<14} {_sentence(op)}" for name, op in ops.items()))
        return 0
    if args.name not in ops:
        raise SpecError(
            [Problem(f"no op is called '{args.name}'", Place("<command line>", 0), near_miss(args.name, ops))]
        )
    print("\n".join(described(ops[args.name])))
    return 0


def described(op: type[Op]) -> list[str]:
    """The page of one op: what it computes, what it reads and gives, its fields, where it comes from, an example."""
    ports = "any number of values" if op.variadic() else ", ".join(map(partial(_port, op), op.ports())) or "nothing"
    fields = list(_fields(op)) or ["  none"]
    wired = [f"weights that may be wired: {', '.join(op.weights)}"] if op.weights else []
    paper = [f"paper: {op.paper}"] if op.paper else []
    example = ["", "example:", textwrap.indent(op.example, "  ")] if op.example else []
    return [op.name, "", inspect.getdoc(op) or "", "", f"reads: {ports}", *wired, "fields:", *fields, *paper, *example]


def _port(op: type[Op], name: str) -> str:
    return name if name in op.required() else f"{name} (may be left out)"


def _fields(op: type[Op]) -> Iterator[str]:
    for name, field in op.model_fields.items():
        default = "required" if field.is_required() else f"default {_default(field)}"
        yield f"  {name:<10} {default}{'; ' + field.description if field.description else ''}"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "the op's own"
    return (
        str(value)
        if isinstance(value, Number | Size)
        else str(value).lower()
        if isinstance(value, bool)
        else repr(value)
    )


def _sentence(op: type[Op]) -> str:
    return " ".join((inspect.getdoc(op) or "").split("\n\n")[0].split())

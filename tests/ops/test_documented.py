"""Every op is in the table, is documented, and says how it is drawn."""

import re
import typing
from pathlib import Path

import pytest
from samples import graph_of

from blockgraph import ops as package
from blockgraph.commands.ops import described
from blockgraph.op import Op, Role
from blockgraph.ops import OPS

every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


@every_op
def test_an_op_is_documented(op: type[Op]) -> None:
    doc = op.__doc__ or ""
    assert op.__dict__.get("__doc__"), "has no docstring of its own"
    assert re.search("`[^`]+`", doc), f"no formula between backticks: {doc}"
    assert "->" in doc, f"no shapes as [...] -> [...]: {doc}"
    assert op.example
    page = "\n".join(described(op))
    for name, field in op.model_fields.items():
        assert field.description, f"{name} has no description"
        assert re.search(rf"^  {name} +(required|default .+);", page, re.MULTILINE), page
    for method in ("infer", "lower", "flops", "parameters", "states", "on_init", "on_step"):
        assert getattr(op, method).__doc__, method


@every_op
def test_an_op_is_called_like_its_file(op: type[Op]) -> None:
    assert op.__module__ == f"blockgraph.ops.{op.name}"


def test_the_table_lists_every_file() -> None:
    files = {path.stem for path in Path(next(iter(package.__path__))).glob("*.py")} - {"__init__", "norm"}
    assert set(OPS) == files


@every_op
def test_an_op_says_how_it_is_drawn(op: type[Op]) -> None:
    assert op.style.role in typing.get_args(Role)
    node = next(node for _, _, node in graph_of(op.name).walk() if node.op.name == op.name)
    assert isinstance(node.op.label(), str)
    assert "{" not in node.op.label()

"""Parameters and FLOPs of whole specs against the modules themselves and torch's own count."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from oracle import METHODS
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

import blockgraph as bg
from blockgraph.canonical import digest
from blockgraph.commands.show import table
from blockgraph.cost import TRAIN_BYTES
from blockgraph.fields import NumberField
from blockgraph.graph import Graph
from blockgraph.load import load
from blockgraph.op import Op, Style
from blockgraph.types import Type

SPECS = Path(__file__).parent / "specs"
OWN = ["cross", "depth", "encoder", "parallel", "shared", "streams", "tied", "value_residual", "weight_ports"]
SIZES = {"n_layers": 3, "d_model": 64, "n_heads": 4, "vocab": 61}


def graph_of(spec: str) -> Graph:
    return bg.load("gpt", block=spec, **SIZES) if spec in METHODS else bg.load(SPECS / f"{spec}.yaml")


@pytest.mark.parametrize("spec", [*METHODS, *OWN])
def test_parameters_are_those_of_the_module(spec: str) -> None:
    with torch.device("meta"):
        module = bg.compile(graph_of(spec))
    assert bg.cost(module.graph).parameters == sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("spec", [*METHODS, *OWN])
@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 33)])
def test_flops_are_those_that_torch_counts(spec: str, batch: int, seq: int) -> None:
    graph = graph_of(spec)
    sizes = [[size.at(batch=batch, seq=seq, src=seq) for size in kind.sizes] for kind in graph.inputs.values()]
    with torch.device("meta"):
        inputs = [torch.zeros(size, dtype=torch.int64 if len(size) == 2 else None) for size in sizes]
        module = bg.compile(graph)
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
    assert bg.cost(graph).flops(batch, seq) == counter.get_total_flops()


def test_the_papers_model_has_830_million_parameters() -> None:
    graph = bg.load("gpt")
    table, blocks = 256_000 * 1024, 24 * (12 * 1024**2 + 2 * 1024)
    assert bg.cost(graph).parameters == 2 * table + blocks + 1024
    assert bg.cost(graph).parameters == pytest.approx(830e6, rel=0.01)
    assert bg.cost(graph).train_bytes == TRAIN_BYTES * bg.cost(graph).parameters


def test_a_stack_is_the_sum_of_its_layers() -> None:
    cost = bg.cost(graph_of("baseline"))
    stack = next(row for row in cost.rows if row.node.path == "layers")
    inside = [row for row in cost.rows if row.depth == 1]
    assert {row.layers for row in inside} == {3}
    assert stack.parameters == 3 * sum(row.parameters for row in inside)
    assert stack.flops(2, 8) == 3 * sum(row.flops(2, 8) for row in inside)
    assert cost.flops(2, 8) == sum(row.flops(2, 8) for row in cost.rows if row.depth == 0)


def test_the_shares_of_nodes_in_a_stack_of_stacks_are_those_of_all_their_layers(tmp_path: Path) -> None:
    for name, op, more in (("fc", "linear", "out: d"), ("deep", "stack", "of: fc, repeat: 3")):
        (tmp_path / f"{name}.yaml").write_text(
            f"block: {name}\ninputs: {{x: [batch, seq, d]}}\ndims: {{d: 8}}\n"
            f"nodes: {{{name}: {{op: {op}, in: x, {more}}}}}\noutputs: {{x: {name}}}\n"
        )
    path = tmp_path / "nested.yaml"
    path.write_text(
        "block: nested\ndims: {d: 8}\ninputs: {x: [batch, seq, d]}\nnodes:\n"
        "  layers: {op: stack, of: deep, repeat: 2}\n  head: {op: linear, out: 3 * d}\noutputs: {x: head}\n"
    )
    rows = [line.split() for line in table(bg.load(path), 1, 4)[2:]]
    assert [row[0] for row in rows] == ["layers", "deep", "fc", "head"]
    assert [row[2] for row in rows[:2]] == ["2", "3"]
    assert [row[-2] for row in rows] == ["66.7", "66.7", "66.7", "33.3"]


def test_every_node_has_its_row_in_running_order() -> None:
    paths = [(row.depth, row.node.path) for row in bg.cost(graph_of("sigma_reparam")).rows]
    assert paths[:4] == [(0, "embed"), (0, "layers"), (1, "attn.ln"), (1, "attn.qkv@weight")]
    assert paths[-2:] == [(0, "norm"), (0, "head")]


def test_shared_parameters_count_once_and_work_every_time() -> None:
    shared, apart = bg.cost(graph_of("shared")), bg.cost(bg.load("gpt", n_layers=3, d_model=32, n_heads=4, vocab=61))
    again = 2 * (3 * 32 * 32 + 2 * 4 * 32 * 32 + 32)
    assert shared.parameters == apart.parameters - again - 32
    assert shared.work == apart.work


def test_the_digest_hears_what_computes_and_nothing_else(tmp_path: Path) -> None:
    text = (SPECS / "parallel.yaml").read_text()
    same = {
        "a title": ("block: parallel", "block: parallel\ntitle: Parallel"),
        "a comment": ("nodes:", "nodes:  # all", 1),
    }
    other = {
        "a field": ("op: silu", "op: gelu"),
        "a size": ("d_ff: 4 *", "d_ff: 2 *"),
        "a wire": ("[up, gate]", "[gate, up]"),
        "an init": ("out: d_model}\n  ff", "out: d_model, init: zeros}\n  ff"),
        "a decay": ("out: d_model}\n  ff", "out: d_model, decay: false}\n  ff"),
    }
    base = digest(bg.load(SPECS / "parallel.yaml"))
    for name, change in {**same, **other}.items():
        path = tmp_path / "parallel.yaml"
        path.write_text(text.replace(*change))
        assert (digest(bg.load(path)) == base) == (name in same), name


def test_the_digest_hears_sizes_and_numbers_inside_any_field(tmp_path: Path) -> None:
    class Kept(Op):
        """The input, with fields that hold others."""

        name: ClassVar = "kept"
        style: ClassVar = Style("reshape")
        example: ClassVar = "kept: {op: kept, in: x}"
        by: dict[str, list[NumberField]] = Field({}, description="numbers by name")

        def infer(self, x: Type) -> Type:
            return x

    path = tmp_path / "kept.yaml"
    found = []
    for number in ("1", "1.0", "d / 4", "2"):
        path.write_text(
            "block: kept\ndims: {d: 4}\ninputs: {x: [batch, seq, d]}\n"
            f"nodes: {{k: {{op: kept, in: x, by: {{a: [{number}]}}}}}}\noutputs: {{x: k}}\n"
        )
        found.append(digest(load(path, ops={"kept": Kept})))
    assert len({*found[:3]}) == 1
    assert found[3] != found[0]


@pytest.mark.parametrize("spec", [*METHODS, *OWN])
def test_the_resolved_text_is_the_same_graph(spec: str, tmp_path: Path) -> None:
    graph = graph_of(spec)
    path = tmp_path / f"{graph.name}.yaml"
    path.write_text(bg.text(graph))
    assert digest(bg.load(path)) == digest(graph)

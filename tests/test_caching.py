"""Caches derived from graphs: new tokens alone give what the whole sequence gives, or it is said why they cannot."""

import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import blockgraph as bg
from blockgraph.caching import edges, refusals
from blockgraph.commands.common import own_ops
from blockgraph.graph import Graph
from blockgraph.kernels.cache import Cache
from blockgraph.library import shipped
from blockgraph.load import load
from blockgraph.ops import OPS

SPECS = Path(__file__).parent / "specs"
SEQ = 19
CLOSE = 1e-5  # of the largest entry, in fp32
SIZES: dict[str, Any] = {"n_layers": 3, "d_model": 32, "n_heads": 4, "vocab": 61}


def _cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every spec that ships, and those of the tests: blocks in gpt, models at their tiny size."""
    found: dict[str, tuple[str, dict[str, Any]]] = {path.stem: (str(path), {}) for path in SPECS.glob("*.yaml")}
    for name, path in shipped().items():
        if load(name).kind == "block":
            found[name] = "gpt", SIZES | {"block": name}
        else:
            found[f"model {name}"] = name, {"size": "tiny"} if "sizes:" in path.read_text() else SIZES
    return found


CASES = _cases()
LENGTH = "is another number for each length, and so are all rows behind it"
UNSAID = "nothing says how rows of new tokens follow from earlier ones; where they do, its class has `incremental`"
# Every spec without a cache, with its reasons: nobody's cache disappears without a line here.
REFUSED = {
    "model sigmoid_attention": [f"attn.sigmoid (sigmoid): shift = -log(seq) {LENGTH}"],
    "all_methods": [f"attn.clip (soft_clip): gamma = -1 / seq {LENGTH}"],
    "clip_by_length": [f"clip (soft_clip): gamma = -12 / seq {LENGTH}"],
    "depth": [
        f"long (scale): by = log(seq + 1) / 4 {LENGTH}",
        f"most (scale): by = min(seq, 2 + layer) {LENGTH}",
        f"both (scale): by = (-1 - layer) ** 2 / sqrt(seq + layer) {LENGTH}",
    ],
    "relu_attention": [f"mean (scale): by = 1 / seq {LENGTH}"],
    "encoder": ["attn.softmax (softmax): its value may depend on later tokens"],
    "own_ops": [f"alibi (alibi): {UNSAID}", f"temp (temperature): {UNSAID}"],
}

every_cached = pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])


def graph_of(case: str) -> Graph:
    spec, dims = CASES[case]
    return load(spec, ops=own_ops([str(SPECS / "my_ops.py")]), **dims)


@cache
def made(case: str) -> Any:
    """A model whose weights are large enough for every node to be felt."""
    model = bg.compile(graph_of(case), cached=True).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=draw)
            large = 1.5 * noise / value.shape[-1] ** 0.5
            value.copy_(value * (1.0 + 0.5 * noise) + 0.1 * noise if value.dim() == 1 else large)
    for _ in range(8):
        model.after_step()  # vectors of power iterations come near to the singular ones
    return model


def inputs_of(graph: Graph, seed: int = 0) -> list[Tensor]:
    """Values for the inputs; documents go up, and other ids are drawn."""
    draw, found = torch.Generator().manual_seed(seed), []
    for name, kind in graph.inputs.items():
        shape = [size.at(batch=2, seq=SEQ, src=7) for size in kind.sizes]
        ids = torch.randint(61, shape, generator=draw)
        ids = (ids < 20).cumsum(1) if name == "documents" else ids
        found.append(ids if kind.kind == "int" else torch.randn(shape, generator=draw))
    return found


def outputs(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def in_parts(model: Any, inputs: list[Tensor], cuts: list[int], kept: Cache) -> list[Tensor]:
    """What `extend` gives for the parts between the cuts, put together along the tokens."""
    parts = []
    for first, end in pairwise([0, *cuts, SEQ]):
        given = [x[:, first:end] if x.shape[1] == SEQ else x for x in inputs]
        parts.append(outputs(model.extend(*given, kept)))
        kept.advance(end - first)
    kinds = [model.graph.type_of(ref) for ref in model.graph.outputs.values()]
    axes = [[str(size) for size in kind.sizes].index("seq") for kind in kinds]
    return [torch.cat(rows, axis) for rows, axis in zip(zip(*parts, strict=True), axes, strict=True)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max() / other.abs().max()) < CLOSE


def test_specs_without_a_cache_are_these_and_say_why() -> None:
    found = {case: [problem.message for problem in refusals(graph_of(case))] for case in CASES}
    assert {case: told for case, told in found.items() if told} == REFUSED


@every_cached
def test_new_tokens_alone_give_what_all_of_them_give(case: str) -> None:
    model = made(case)
    inputs = inputs_of(model.graph)
    with torch.no_grad():
        expected = outputs(model(*inputs))
        assert_equal(in_parts(model, inputs, [], Cache(SEQ)), expected)
        assert_equal(in_parts(model, inputs, [8, *range(9, SEQ)], Cache(SEQ + 3)), expected)


@settings(max_examples=60)
@given(st.sampled_from([case for case in CASES if case not in REFUSED]), st.sets(st.integers(1, SEQ - 1)))
def test_where_a_prompt_is_cut_changes_nothing(case: str, cuts: set[int]) -> None:
    model = made(case)
    inputs = inputs_of(model.graph, seed=len(cuts))
    with torch.no_grad():
        assert_equal(in_parts(model, inputs, sorted(cuts), Cache(SEQ)), outputs(model(*inputs)))

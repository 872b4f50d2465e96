"""The proof of a cache against the numbers of random small graphs, of which most are no attention that anybody uses."""

import random
from itertools import pairwise

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_causal_truth import WIDTH, Draft, drafted, loaded

import blockgraph as bg
from blockgraph.caching import plan, refusals
from blockgraph.errors import SpecError
from blockgraph.graph import Graph
from blockgraph.kernels.cache import Cache

LENGTH = 6


def error(graph: Graph, cuts: list[int]) -> float:
    """How far rows of new tokens are from those of the whole, relative to the largest; 0 where none is finite."""
    x = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    model, past, parts = bg.compile(graph, cached=True).eval(), Cache(LENGTH), []
    with torch.no_grad():
        whole = model(x)
        for first, end in pairwise([0, *cuts, LENGTH]):
            parts.append(model.extend(x[:, first:end], past))
            past.advance(end - first)
    found = torch.cat(parts, 1 if whole.dim() == 3 else 2)
    finite = whole.isfinite()
    assert torch.equal(found.isfinite(), finite)
    largest = whole[finite].abs().max() if finite.any() else torch.ones(())
    return float((found - whole)[finite].abs().max() / largest.clamp(min=1e-6)) if finite.any() else 0.0


def cached(draft: Draft) -> Graph | None:
    """The graph of a draft that is causal and has a cache."""
    graph = loaded(draft.text(causal=True)) if draft.lines else None
    return None if graph is None or isinstance(graph, SpecError) or refusals(graph) else graph


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.sets(st.integers(1, LENGTH - 1)))
def test_what_is_proven_right_is_right(draw: random.Random, cuts: set[int]) -> None:
    graph = cached(drafted(draw))
    if graph is not None:
        assert error(graph, sorted(cuts)) < 1e-4


def test_graphs_that_are_drawn_put_the_proof_to_the_test() -> None:
    draw = random.Random(0)
    graphs = [graph for _ in range(150) if (graph := cached(drafted(draw)))]
    kept = [len(plan(graph).cached) for graph in graphs]
    assert len(graphs) > 30
    assert sum(count > 0 for count in kept) > 10
    assert max(kept) > 2

"""The causal mask: what it hides is gone, whatever it was, and what it leaves keeps its bits."""

import math

import pytest
import torch

from blockgraph.kernels.attention import causal_mask
from blockgraph.kernels.cpp import has_compiler

SHAPES = [(7, 7, None), (7, 7, 1), (7, 7, 3), (7, 7, 20), (3, 8, None), (3, 8, 4), (1, 5, 2)]
each_shape = pytest.mark.parametrize(("queries", "keys", "window"), SHAPES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])


def seen(queries: int, keys: int, window: int | None) -> torch.Tensor:
    """Which keys a query sees, a pair at a time."""
    first, reach = keys - queries, window or keys
    rows = [[first + query - reach < key <= first + query for key in range(keys)] for query in range(queries)]
    return torch.tensor(rows)


@each_shape
@each_dtype
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 0.0])
def test_no_number_that_is_hidden_is_seen(
    queries: int, keys: int, window: int | None, dtype: torch.dtype, odd: float
) -> None:
    left = seen(queries, keys, window)
    plain = torch.randn(2, 3, queries, keys, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = plain.masked_fill(~left, odd).requires_grad_()
    found = causal_mask(scores, window)
    assert found.dtype == dtype
    assert torch.equal(found, torch.where(left, plain, -math.inf))
    weights = torch.softmax(found, -1)
    (given,) = torch.autograd.grad(weights.square().sum(), scores)
    assert given.isfinite().all()
    assert (given.masked_select(~left) == 0.0).all()


@each_shape
def test_what_a_query_sees_stays_what_it_is(queries: int, keys: int, window: int | None) -> None:
    left = seen(queries, keys, window)
    found = causal_mask(torch.full((queries, keys), math.nan), window)
    assert torch.equal(found.isnan(), left)


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
def test_a_compiled_mask_hides_what_a_plain_one_does() -> None:
    compiled = torch.compile(lambda x: torch.softmax(causal_mask(x, 5), -1), dynamic=False)
    scores = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0))
    spoiled = scores.masked_fill(~seen(40, 40, 5), math.nan)
    torch.testing.assert_close(compiled(spoiled), torch.softmax(causal_mask(scores, 5), -1), rtol=1e-6, atol=0)

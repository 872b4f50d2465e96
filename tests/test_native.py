"""What is computed in C++ against fp64, against the same in Python, and on any number of threads."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_numerics import tokens
from test_probes import model_of, recorded, same
from torch import Tensor, nn

from blockgraph.kernels import probes, records
from blockgraph.kernels.cpp import cpp_library, has_compiler
from runners.optimizers import ratios
from runners.optimizers.stable_adamw import StableAdamW

BOUND = 1e-6  # on relative errors; fp32 rounds to 6e-8
COUNTS = [1, 64, 2**14, 70_001, 2**17 + 2049]

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def close(found: Tensor, expected: Tensor, bound: float = BOUND) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=bound, atol=0)


@both
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-8, 1e30])
def test_a_record_is_that_of_fp64_also_where_fp32_has_no_squares(dtype: torch.dtype, count: int, scale: float) -> None:
    x = (3 + draw(count)).to(dtype) * scale
    assert records.is_recorded(x)
    total, norm, largest, entries = records.native_moments(x)
    exact = x.double()
    close(total, exact.sum())
    close(norm, exact.square().sum().sqrt())
    assert (largest, entries) == (x.abs().max(), count)


@both
def test_a_record_of_zeros_is_zero(dtype: torch.dtype) -> None:
    assert records.native_moments(torch.zeros(20_000, dtype=dtype)).tolist() == [0.0, 0.0, 0.0, 20_000.0]


@both
@pytest.mark.parametrize("place", [0, 5_000, 69_999])
def test_one_number_that_is_none_is_told_wherever_it_stands(dtype: torch.dtype, place: int) -> None:
    for odd in (math.nan, math.inf, -math.inf):
        x = torch.ones(70_000, dtype=dtype)
        x[place] = odd
        total, norm, largest, _ = records.native_moments(x)
        torch.testing.assert_close(largest, torch.tensor(abs(odd)), equal_nan=True)
        assert not total.isfinite()
        assert not norm.isfinite()


@both
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [40, 150])
def test_the_largest_score_has_its_sign_and_is_one_that_counts(dtype: torch.dtype, causal: bool, queries: int) -> None:
    hidden = torch.ones(queries, 150, dtype=torch.bool).triu(1 + 150 - queries) if causal else torch.zeros(1, 1).bool()
    for scores in (
        draw(2, 3, queries, 150),
        -2 - draw(2, 3, queries, 150).abs(),
        torch.full((4, queries, 150), -math.inf),
    ):
        scores = scores.to(dtype)
        record = records.native_largest(scores, causal)
        assert record.tolist() == [0.0, 0.0, scores.masked_fill(hidden, -math.inf).max(), 1.0]
    scores[1, -1, 149] = math.nan
    assert records.native_largest(scores, causal)[2].isnan()
    assert records.native_largest(scores[:, :-1].contiguous(), causal)[2] == -math.inf


@both
def test_entropies_and_peaks_of_rows_are_those_of_fp64(dtype: torch.dtype) -> None:
    weights = torch.softmax(draw(300, 65) * torch.linspace(0, 30, 300)[:, None], -1).to(dtype)
    entropies = torch.special.entr(weights.double()).sum(-1)
    total, norm, largest, rows = records.native_entropy(weights, probes.LEAST_WEIGHT)
    close(torch.stack([total, norm, largest]), torch.stack([entropies.sum(), entropies.norm(), entropies.max()]))
    total, _, _, rows = records.native_above(weights, probes.ONE_HOT)
    assert (total, rows) == ((weights.max(-1).values > probes.ONE_HOT).sum(), 300)


def test_a_row_with_a_number_that_is_none_has_no_entropy_and_no_peak() -> None:
    weights = torch.zeros(300, 65)
    weights[:, 3], weights[7, 5] = 1.0, math.nan
    assert records.native_entropy(weights, probes.LEAST_WEIGHT)[0].isnan()
    assert records.native_above(weights, probes.ONE_HOT)[0] == 299


@both
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("queries", [40, 150])
def test_means_are_of_the_entries_that_count(dtype: torch.dtype, causal: bool, queries: int) -> None:
    weights = torch.linspace(-1, 3, 6 * queries * 150).reshape(2, 3, queries, 150).to(dtype)
    counting = (~probes.later(weights) if causal else torch.ones(queries, 150, dtype=torch.bool)).expand_as(weights)
    kept = weights.double()[counting]
    total, *zeros, count = records.native_outside(weights, causal)
    assert (total, *zeros, count) == (((kept <= 0) | (kept >= 1)).sum(), 0, 0, len(kept))
    total, *zeros, count = records.native_squares(weights, causal, 50.0)
    close(total, (kept / 50).square().sum())
    assert (*zeros, count) == (0, 0, len(kept))


@pytest.mark.parametrize("method", ["qk_norm_cap", "soft_clip"])
def test_a_model_records_the_same_with_the_code_and_without(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, found = tokens(batch=3, seq=40), []
    for served in (True, False):
        model, _ = model_of(method)
        for known in (records.__dict__, type(model).forward.__globals__):
            monkeypatch.setitem(known, "_record_library", records._record_library if served else lambda: None)
        assert records.is_recorded(draw(3)) == served
        found.append(recorded(model, batch))
    same(*found)
    assert found[0] != found[1], "the code was not used"


@pytest.mark.parametrize("count", COUNTS)
def test_no_sum_follows_from_the_count_of_threads(count: int, threads: Callable[[int], None]) -> None:
    x, pairs, found = draw(count), [ratio(count), ratio(2 * count)], []
    for number in (1, 2, 3):
        threads(number)
        rows = records.native_entropy(x[: count // 16 * 16].abs().view(-1, 16), probes.LEAST_WEIGHT)
        found.append([records.native_moments(x), rows, ratios.native_means(pairs, 0.95)])
    torch.testing.assert_close(found[1:], found[:1] * 2, rtol=0, atol=0)


def ratio(count: int, scale: float = 1.0, numel: int = 10**6) -> ratios.Ratio:
    """A gradient next to a moment over many magnitudes, some of it below the floor, and a token in no batch."""
    moment = draw(count).square() * torch.logspace(-20, 0, count)
    grad = scale * draw(count).roll(1)
    grad[: count // 4], moment[: count // 4] = 0.0, 0.0
    return ratios.Ratio(grad, moment, torch.tensor(1e-16).double(), numel)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3])
def test_means_of_ratios_are_those_of_fp64(scale: float) -> None:
    given = [ratio(count, scale) for count in (1, 7, *COUNTS)]
    assert ratios.is_native(given)
    found, beta2 = ratios.native_means(given, 0.95), 0.95
    for mean, (grad, moment, floor, numel) in zip(found, given, strict=True):
        squared = grad.double().square()
        now = beta2 * moment.double() + (1 - beta2) * squared
        close(mean, (squared / now.clamp(min=floor)).sum() / numel)
    close(found.float(), ratios.means(given, beta2), 1e-5)


def test_steps_are_the_same_with_the_code_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[Tensor]] = []
    monkeypatch.setattr(ratios, "LEAST", 1)
    for served in (True, False):
        monkeypatch.setattr(ratios, "cpp_library", cpp_library if served else lambda code: None)
        parameters = [nn.Parameter(torch.ones(300, 50)), nn.Parameter(torch.ones(9))]
        made = StableAdamW(parameters, lr=0.1)
        for scale in (1.0, 30.0, 0.1):
            for parameter in parameters:
                parameter.grad = draw(*parameter.shape, scale=scale)
            made.step()
        found.append([parameter.detach() for parameter in parameters])
    torch.testing.assert_close(*found, rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize(
    "x",
    [
        draw(20_000).double(),
        draw(20_000).half(),
        draw(200, 200).T,
        draw(20_000).to("meta"),
    ],
    ids=["fp64", "fp16", "gaps", "meta"],
)
def test_other_tensors_are_left_to_python(x: Any) -> None:
    assert not records.is_recorded(x)


def test_text_that_is_no_code_is_no_library() -> None:
    assert cpp_library("this is no C++") is None

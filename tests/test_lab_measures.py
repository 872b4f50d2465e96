"""Measures of a study: published figures, exact distributions and laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.lab.ceiling import highest, ratio
from runners.lab.fits import polynomial
from runners.lab.intervals import estimate, geometric, paired, perplexity, t_quantile
from runners.lab.sensitivity import WINDOW, sensitivity, within
from runners.lab.words import bound
from runners.studies.stability import Edge

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
# Published: final losses of a 16M model without z-loss, flxst/output-embedding-centering.
PUBLISHED = dict(zip(GRID, (3.961, 3.881, 3.850, 3.841, 3.857, 4.269, 5.065), strict=True))
INITIAL = 10.4  # above all of them

losses = st.lists(st.floats(0.5, 12.0), min_size=2, max_size=7)


@pytest.mark.parametrize(("convention", "expected"), [("intervals", 0.306), ("points", 0.262)])
def test_the_sensitivity_of_a_published_series_is_the_published_one(convention, expected):
    assert round(sensitivity(PUBLISHED, INITIAL, convention), 3) == expected


@pytest.mark.parametrize("lost", [math.inf, math.nan, -math.inf, 99.0])
def test_a_loss_that_is_not_finite_or_above_the_initial_one_enters_as_the_initial_one(lost):
    assert sensitivity(PUBLISHED | {0.3: lost}, INITIAL) == sensitivity(PUBLISHED | {0.3: INITIAL}, INITIAL)


@given(losses, st.floats(-0.4, 3.0))
def test_the_sensitivity_sees_neither_the_level_nor_the_order_of_losses(values, shift):
    curve = dict(zip(GRID, values, strict=False))
    moved = {rate: loss + shift for rate, loss in reversed(curve.items())}
    assert sensitivity(moved, INITIAL + shift) == pytest.approx(sensitivity(curve, INITIAL), abs=1e-9)


@given(losses)
def test_the_sensitivity_is_zero_for_a_flat_curve_and_bounded_by_what_can_be_lost(values):
    curve = dict(zip(GRID, values, strict=False))
    flat = dict.fromkeys(curve, values[0])
    best = min(min(values), INITIAL)
    assert sensitivity(flat, INITIAL) == 0.0
    assert 0.0 <= sensitivity(curve, INITIAL) <= INITIAL - best


def test_a_window_keeps_its_ends():
    rates = (*GRID, 1e-4, 1.0)
    assert tuple(within(dict.fromkeys(rates, 1.0), WINDOW)) == GRID


def test_one_learning_rate_has_no_sensitivity():
    with pytest.raises(ValueError, match="needs two learning rates or more, found 1"):
        sensitivity({0.1: 2.0}, 5.0)


# Two-sided quantiles as they are printed in tables of Student's distribution.
@pytest.mark.parametrize(
    ("freedom", "level", "expected"),
    [
        (1, 0.95, 12.7062), (2, 0.95, 4.3027), (3, 0.95, 3.1824), (4, 0.95, 2.7764), (5, 0.95, 2.5706),
        (6, 0.95, 2.4469), (9, 0.95, 2.2622), (10, 0.95, 2.2281), (30, 0.95, 2.0423), (120, 0.95, 1.9799),
        (1, 0.5, 1.0000), (2, 0.99, 9.9248), (7, 0.9, 1.8946),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_printed_tables(freedom, level, expected):
    assert round(t_quantile(freedom, level), 4) == expected


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12])
def test_quantiles_enclose_their_share_of_the_density(freedom):
    end = t_quantile(freedom, 0.95)
    t = np.linspace(-end, end, 200_001)
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    assert np.trapezoid(scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2), t) == pytest.approx(0.95, abs=1e-6)


def test_an_interval_of_95_percent_holds_the_truth_in_95_of_100_samples():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 3))
    held = sum(found.low <= 3.0 <= found.high for found in map(estimate, draws.tolist()))
    assert 0.94 < held / len(draws) < 0.96


def test_a_single_value_says_nothing_of_its_error():
    assert (estimate([2.0]).low, estimate([2.0]).high) == (None, None)
    with pytest.raises(ValueError, match="needs a value"):
        estimate([])


def test_perplexity_is_wider_above_than_below():
    found = perplexity([2.0, 2.1, 2.3])
    assert found.mean == pytest.approx(math.exp(6.4 / 3))
    assert found.high - found.mean > found.mean - found.low > 0


def test_what_a_seed_shares_cancels_in_a_paired_comparison():
    one, other = {0: 2.0, 1: 3.0, 2: 5.0}, {0: 1.9, 1: 2.9, 2: 4.9, 7: 0.0}
    found = paired(one, other)
    assert (found.mean, found.count) == (pytest.approx(0.1), 3)
    assert found.high - found.low < 1e-12
    with pytest.raises(ValueError, match="needs a value"):
        paired({0: 1.0}, {1: 1.0})


def test_a_ceiling_outside_of_the_grid_is_a_bound():
    inside, above, below = Edge({}, 1.0, 2.0), Edge({}, 2.0, None), Edge({}, None, 1.0)
    assert (highest([inside, above]).at_least, highest([inside, above]).high) == (True, None)
    assert (highest([inside, below]).below, highest([inside, below]).low) == (True, None)
    found = highest([inside, inside])
    assert (found.low, found.high, found.at_least, found.below) == (1, 2, False, False)


@pytest.mark.parametrize(("ceilings", "sign"), [
    ([(0.1, 0.3), (0.1, 0.3)], ""), ([(0.1, 0.3), (0.3, None)], "≥ "), ([(None, 0.1), (0.1, 0.3)], "< "),
    ([(None, 0.1), (0.3, None)], "about "),
])  # fmt: skip
def test_a_mean_of_ceilings_on_both_sides_of_the_grid_bounds_nothing(ceilings, sign):
    assert bound(highest(Edge({}, stable, diverged) for stable, diverged in ceilings)) == sign


def test_the_ratio_of_ceilings_is_paired_by_seed():
    one = {seed: Edge({}, 3.0 * seed + 3, 90.0) for seed in range(3)}
    other = {seed: Edge({}, seed + 1.0, 90.0) for seed in range(4)}
    found = ratio(one, other)
    assert (found.mean, found.low, found.high, found.count) == (*[pytest.approx(3.0)] * 3, 3)


@pytest.mark.parametrize("degree", [1, 2])
def test_a_fit_finds_the_polynomial_that_made_the_points(degree):
    law = np.polynomial.Polynomial([0.3, 1.7, 0.4][: degree + 1])
    x = np.array([6.4, 6.4, 7.0, 7.5, 8.1])
    found = polynomial(x, law(x), degree)
    assert found.at(9.7).mean == pytest.approx(law(9.7))
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert law(found.crosses(law(9.0))) == pytest.approx(law(9.0), abs=0.02)


def test_a_fit_through_as_many_points_as_coefficients_gives_no_interval():
    found = polynomial([1, 2, 3], [1, 4, 2], 2).at(4)
    assert (found.mean, found.low, found.high) == (pytest.approx(-5.0), None, None)


def test_an_interval_of_a_fit_holds_the_next_measurement_in_95_of_100_cases():
    draw, x, held = np.random.default_rng(1), np.repeat([6.0, 7.0, 8.0], 3), 0
    for _ in range(2000):
        found = polynomial(x, 1 + 0.5 * x + draw.normal(0, 0.1, 9), 1).at(9.0)
        held += found.low <= 5.5 + draw.normal(0, 0.1) <= found.high
    assert 0.935 < held / 2000 < 0.965


def test_a_fit_that_falls_or_has_too_few_points_says_so():
    assert polynomial([1, 2, 3], [3, 2, 1], 1).crosses(10) is None
    with pytest.raises(ValueError, match="degree 2 needs 3 distinct points, found 2"):
        polynomial([1, 2, 2], [1, 2, 3], 2)


def test_a_geometric_mean_is_that_of_the_logarithms():
    assert geometric([0.01, 0.1, 1.0]).mean == pytest.approx(0.1)

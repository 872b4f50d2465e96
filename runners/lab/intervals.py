"""Means over seeds with intervals of Student's t, from closed forms of the distribution."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
HALVINGS = 80  # of the interval in which a quantile is sought: more than a double has bits


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` values; `low` and `high` enclose it at the stated level.

    They are None where one value says nothing.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """The estimate on another scale, through an increasing function."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Estimate(function(self.mean), low, high, self.count)


def estimate(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """Mean of a sample and its t interval. Raises `ValueError` for no values."""
    sample = list(values)
    if not sample:
        raise ValueError("an estimate needs a value")
    mean = fmean(sample)
    if len(sample) == 1:
        return Estimate(mean, None, None, 1)
    half = t_quantile(len(sample) - 1, level) * stdev(sample) / math.sqrt(len(sample))
    return Estimate(mean, mean - half, mean + half, len(sample))


def geometric(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """Geometric mean of positive values, such as learning rates, with the interval of their logarithms."""
    return estimate(map(math.log, values), level).map(math.exp)


def perplexity(losses: Iterable[float], level: float = LEVEL) -> Estimate:
    """exp of the mean loss in nats, with the interval of the loss on that scale: it is wider above than below."""
    return estimate(losses, level).map(math.exp)


def paired(one: Mapping[int, float], other: Mapping[int, float], level: float = LEVEL) -> Estimate:
    """Mean of `one - other` over the seeds that both have. What a seed shares between them cancels.

    Raises `ValueError` where they share no seed.
    """
    return estimate((one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())), level)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t beyond which, to either side, lies a share of `1 - level` of Student's distribution."""
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """Share of Student's distribution within t = sqrt(freedom) tan(angle).

    Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total

"""The learning rate at which a final loss passes a bound, read between the rates of a grid."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from runners.lab.intervals import Estimate, geometric
from runners.lab.lab import Lab
from runners.lab.sensitivity import Curve
from runners.lab.words import rate, sign


@dataclass(frozen=True, slots=True)
class Crossing:
    """A learning rate, or a bound of it: `≥ ` the highest that was run, `≤ ` the lowest."""

    rate: float
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times higher one rate is than another, paired by seed; the sign says where one is only a bound."""

    times: Estimate
    sign: str = ""

    def __str__(self) -> str:
        return rate(self.times, self.sign)

    @property
    def higher(self) -> bool:
        """Whether the interval lies above 1, however far a bound may be off."""
        return self.times.low is not None and self.times.low > 1 and self.sign in ("", "≥ ")

    @property
    def lower(self) -> bool:
        """Whether the interval lies below 1, however far a bound may be off."""
        return self.times.high is not None and self.times.high < 1 and self.sign in ("", "≤ ")


def crossing(curve: Curve, margin: float) -> Crossing:
    """Where the loss is `margin` above the lowest at a lower rate, on the line between two losses over log rate.

    A run that diverged has no loss to draw a line to: the middle between its rate and the next lower stands for it.
    Raises `ValueError` for a curve without rates.
    """
    rates = sorted(curve)
    if not rates:
        raise ValueError("a crossing needs a learning rate")
    if not math.isfinite(curve[rates[0]]):
        return Crossing(rates[0], "≤ ")
    lowest = curve[rates[0]]
    for below, above in pairwise(rates):
        bound = lowest + margin
        if not curve[above] <= bound:
            share = (bound - curve[below]) / (curve[above] - curve[below]) if math.isfinite(curve[above]) else 0.5
            return Crossing(below ** (1 - share) * above**share)
        lowest = min(lowest, curve[above])
    return Crossing(rates[-1], "≥ ")


def crossings(lab: Lab, arm: str, size: str, margin: float) -> dict[int, Crossing]:
    """The crossing of each seed of an arm."""
    curves: dict[int, dict[float, float]] = {}
    for trial in lab.of(arm, size):
        curves.setdefault(trial.seed, {})[trial.lr] = math.inf if trial.loss is None else trial.loss
    return {seed: crossing(curve, margin) for seed, curve in sorted(curves.items())}


def told(found: Mapping[int, Crossing]) -> str:
    """Geometric mean of the crossings of all seeds, with its interval. Raises `ValueError` for none."""
    signs = {each.sign for each in found.values()}
    return rate(geometric(each.rate for each in found.values()), sign("≥ " in signs, "≤ " in signs))


def ratio(one: Mapping[int, Crossing], other: Mapping[int, Crossing]) -> Ratio:
    """How many times higher one arm's crossings are, over the seeds of both. Raises `ValueError` for none."""
    seeds = sorted(one.keys() & other.keys())
    larger = any(one[seed].sign == "≥ " or other[seed].sign == "≤ " for seed in seeds)
    smaller = any(one[seed].sign == "≤ " or other[seed].sign == "≥ " for seed in seeds)
    return Ratio(geometric(one[seed].rate / other[seed].rate for seed in seeds), sign(larger, smaller))

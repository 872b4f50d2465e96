"""The highest learning rate at which a block trains, over seeds, and how many times higher it is than another's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runners.lab.intervals import Estimate, geometric
from runners.studies.stability import Edge


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest stable learning rate over seeds: its geometric mean, and the rates between which every seed's lies.

    Where a seed's ceiling lies outside of the grid, `at_least` or `below` is set, and the mean is a bound. With both it
    bounds nothing.
    """

    mean: Estimate
    low: float | None
    high: float | None
    at_least: bool
    below: bool


def highest(ceilings: Iterable[Edge]) -> Highest:
    """Several seeds' ceilings in one. Raises `ValueError` for none."""
    found = list(ceilings)
    below, at_least = any(c.stable is None for c in found), any(c.diverged is None for c in found)
    stable = [c.stable for c in found if c.stable is not None]
    diverged = [c.diverged for c in found if c.diverged is not None]
    return Highest(
        mean=geometric(_level(c) for c in found),
        low=None if below else min(stable),
        high=None if at_least else max(diverged),
        at_least=at_least,
        below=below,
    )


def ratio(one: Mapping[int, Edge], other: Mapping[int, Edge]) -> Estimate:
    """How many times higher one block's ceiling is than another's, over the seeds of both.

    Raises `ValueError` where they share none.
    """
    return geometric(_level(one[seed]) / _level(other[seed]) for seed in sorted(one.keys() & other.keys()))


def _level(found: Edge) -> float:
    """The highest stable rate; the lowest that was tried bounds one that lies below it."""
    level = found.diverged if found.stable is None else found.stable
    assert level is not None  # a rate was tried, and it either converged or diverged
    return level

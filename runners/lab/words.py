"""Numbers in words: estimates with their intervals, learning rates, counts."""

import math

from runners.lab.ceiling import Highest
from runners.lab.intervals import Estimate

NONE = "·"


def number(value: float | None, digits: int = 3) -> str:
    """A number of some significant digits; infinite losses are those of runs that diverged."""
    if value is None or math.isnan(value):
        return NONE
    return "diverged" if math.isinf(value) else f"{value:.{digits}g}"


def fixed(value: float | None, places: int = 3) -> str:
    """A number with some decimal places."""
    return f"{value:.{places}f}" if value is not None and math.isfinite(value) else number(value)


def interval(found: Estimate, places: int = 2, sign: str = "") -> str:
    """`mean [low, high]`; the mean alone where one value says nothing of its error."""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.{places}f}"
    return f"{found.mean:{sign}.{places}f} [{found.low:{sign}.{places}f}, {found.high:{sign}.{places}f}]"


def rate(found: Estimate, bound: str = "") -> str:
    """A geometric mean of learning rates with its interval, to three digits."""
    if found.low is None or found.high is None or found.low == found.high:
        return f"{bound}{found.mean:.3g}"
    return f"{bound}{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def whole(found: Estimate) -> str:
    """A count with its interval, in whole numbers."""
    if found.low is None or found.high is None or found.low == found.high:
        return f"{found.mean:,.0f}"
    return f"{found.mean:,.0f} [{found.low:,.0f}, {found.high:,.0f}]"


def bound(found: Highest) -> str:
    """The sign before a ceiling that lies outside of the grid for some seed."""
    return "< " if found.below and not found.at_least else sign(found.at_least, found.below)


def sign(larger: bool, smaller: bool) -> str:
    """What stands before a mean over seeds where the truth of some is larger, or smaller; of both it bounds nothing."""
    return "about " if larger and smaller else "≥ " if larger else "≤ " if smaller else ""


def count(number: float) -> str:
    """A large number, such as 2.4M parameters."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"

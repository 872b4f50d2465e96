"""Polynomials through measurements, with intervals for what they foretell."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runners.lab.intervals import LEVEL, Estimate, t_quantile

Array = NDArray[np.float64]
SEARCHED = 4.0  # how far beyond the last point a crossing is looked for, in units of x: decades of size
STEPS = 4000  # of that search


@dataclass(frozen=True)
class Fit:
    """A least-squares polynomial in x - centre, lowest power first, and what its residuals say of it.

    `spread` is the residuals' standard deviation at `freedom` degrees of freedom; a fit through as many points as it
    has coefficients has none left, and says nothing of its own error.
    """

    coefficients: Array
    centre: float
    spread: float
    freedom: int
    inverse: Array
    last: float

    @property
    def degree(self) -> int:
        """1 for a power law on logarithmic axes, 2 for the quadratic of Wortsman et al."""
        return len(self.coefficients) - 1

    def at(self, x: float, level: float = LEVEL) -> Estimate:
        """The value foretold at x, with the interval in which one new measurement is expected."""
        powers = _powers(np.array([x - self.centre]), self.degree)[0]
        value = float(powers @ self.coefficients)
        if not self.freedom:
            return Estimate(value, None, None, self._count)
        half = t_quantile(self.freedom, level) * self.spread * math.sqrt(1 + float(powers @ self.inverse @ powers))
        return Estimate(value, value - half, value + half, self._count)

    def crosses(self, value: float) -> float | None:
        """The first x beyond the last point at which the fit is at least `value`; None where it stays below."""
        xs = np.linspace(self.last, self.last + SEARCHED, STEPS + 1)
        above = _powers(xs - self.centre, self.degree) @ self.coefficients >= value
        return float(xs[int(above.argmax())]) if above.any() else None

    @property
    def _count(self) -> int:
        return self.freedom + len(self.coefficients)


def polynomial(x: ArrayLike, y: ArrayLike, degree: int) -> Fit:
    """The fit of a degree. Raises `ValueError` where x has no more than `degree` distinct values."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(xs)) <= degree:
        raise ValueError(f"degree {degree} needs {degree + 1} distinct points, found {len(np.unique(xs))}")
    centre = float(xs.mean())
    powers = _powers(xs - centre, degree)
    inverse = np.linalg.inv(powers.T @ powers).astype(np.float64)
    coefficients = np.linalg.lstsq(powers, ys, rcond=None)[0]
    freedom = len(xs) - degree - 1
    residual = float(np.square(ys - powers @ coefficients).sum())
    return Fit(coefficients, centre, math.sqrt(residual / freedom) if freedom else 0.0, freedom, inverse, xs.max())


def _powers(x: Array, degree: int) -> Array:
    return np.vander(x, degree + 1, increasing=True)

"""The largest attention logit against size, with fits, and what they say will fail next (2309.14322, section 3.3)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from runners.lab.fits import Fit, polynomial
from runners.lab.intervals import Estimate
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import common_step, logit
from runners.lab.section import Section, Table
from runners.lab.words import NONE, count, number

TITLE = "Largest attention logit against size, and a forecast (Wortsman, Figure 9)"
THRESHOLD = 1e4  # the paper: every run whose largest logit was above it diverged
FITTED = 3  # sizes that a forecast is fitted to, the smallest ones
BEYOND = math.log10(4)  # that a line is drawn on beyond the largest size, in decades
LAWS = {1: "power law", 2: "quadratic"}
HOW = (
    f"log10 of the largest attention logit of the first layer against log10 of N, the parameters in the layers, for "
    "each learning rate, at the last step that all of its runs recorded. The paper fits a quadratic and does not name "
    "its axes; a straight line, a power law, stands beside it. Intervals are those in which one new run is expected "
    f"with 95 %; a fit through as many points as it has coefficients has none. A run is foretold to fail where its "
    f"logit is above {THRESHOLD:g}."
)


@dataclass(frozen=True)
class Points:
    """Runs of one arm and learning rate: log10 of N, log10 of the largest logit at `step`, whether it converged."""

    runs: tuple[tuple[float, float, bool], ...]
    step: int

    @property
    def x(self) -> list[float]:
        """log10 of N of each run."""
        return [x for x, _, _ in self.runs]

    @property
    def y(self) -> list[float]:
        """log10 of the largest logit of each run."""
        return [y for _, y, _ in self.runs]

    @property
    def distinct(self) -> list[float]:
        """The sizes there are."""
        return sorted(set(self.x))

    def upto(self, sizes: int) -> "Points":
        """The runs of the smallest sizes."""
        return Points(tuple(run for run in self.runs if run[0] in self.distinct[:sizes]), self.step)

    def fit(self, degree: int) -> Fit | None:
        """The fit of a degree; None where there are too few sizes."""
        return polynomial(self.x, self.y, degree) if len(self.distinct) > degree else None


def section(lab: Lab) -> Section:
    """A figure of logits and fits for each arm, the forecasts with what came of them, and what fails next."""
    found = {arm: {lr: points for lr in lab.rates if (points := points_of(lab, arm, lr))} for arm in lab.arms}
    found = {arm: rates for arm, rates in found.items() if any(len(points.distinct) > 1 for points in rates.values())}
    if not found:
        return Section(TITLE, missing="the probe of the largest attention logit at two sizes or more")
    tables = [make(lab, arm, rates) for arm, rates in found.items() for make in (_forecasts, _next)]
    figures = [_figure(lab, arm, rates) for arm, rates in found.items()]
    return Section(TITLE, (HOW,), tuple(table for table in tables if table.rows), tuple(figures))


def points_of(lab: Lab, arm: str, lr: float) -> Points | None:
    """The largest logits of an arm at a learning rate, at the last step that all runs reached."""
    both = [(trial, seen) for trial in lab.of(arm, lr=lr) if (seen := logit(trial))]
    if not both:
        return None
    step = common_step([seen for _, seen in both])
    kept = [(trial, value) for trial, seen in both if (value := seen.at(step)) > 0 and math.isfinite(value)]
    runs = ((math.log10(trial.parameters), math.log10(value), lab.converged(trial)) for trial, value in kept)
    return Points(tuple(runs), step)


def _forecasts(lab: Lab, arm: str, rates: dict[float, Points]) -> Table:
    """For each larger size that was run: what the smallest ones foretold, and what came of it."""
    rows = []
    for lr, points in rates.items():
        small = points.upto(FITTED)
        for x in points.distinct[FITTED:]:
            there = [(y, ok) for at, y, ok in points.runs if at == x]
            measured = 10 ** float(np.median([y for y, _ in there]))
            came = f"{sum(not ok for _, ok in there)} of {len(there)} diverged"
            told = [_foretold(fit.at(x)) if (fit := small.fit(degree)) else NONE for degree in LAWS]
            rows.append((f"{lr:g}", count(round(10**x)), *told, number(measured), came))
    headings = ("LR", "N", *(f"foretold by the {law}" for law in LAWS.values()), "measured (median)", "outcome")
    caption = f"{arm}: largest logit foretold from the {FITTED} smallest sizes, and what was measured when it was run."
    return Table(caption, headings, tuple(rows))


def _foretold(found: Estimate) -> str:
    """A forecast on the logits' own scale, and whether it says that the run fails."""
    powers = found.map(lambda y: 10 ** min(y, 300.0))
    ends = f" [{powers.low:.3g}, {powers.high:.3g}]" if powers.low is not None and powers.high is not None else ""
    return f"{powers.mean:.3g}{ends}: {'fails' if powers.mean > THRESHOLD else 'holds'}"


def _next(lab: Lab, arm: str, rates: dict[float, Points]) -> Table:
    """From all sizes that were run: the size at which each learning rate reaches the threshold."""
    rows = []
    for lr, points in rates.items():
        if len(points.distinct) > 1:
            crossings = [_crossing(points.fit(degree)) for degree in LAWS]
            rows.append((f"{lr:g}", str(points.step), count(round(10 ** points.distinct[-1])), *crossings))
    headings = ("LR", "at step", "largest N run", *(f"fails at N, by the {law}" for law in LAWS.values()))
    caption = f"{arm}: what fails next. The size at which the largest logit is foretold to reach {THRESHOLD:g}."
    return Table(caption, headings, tuple(rows))


def _crossing(fit: Fit | None) -> str:
    if fit is None:
        return NONE
    x = fit.crosses(math.log10(THRESHOLD))
    if x is None:
        return "not within four decades"
    return "already at the largest" if x == fit.last else count(round(10**x))


def _figure(lab: Lab, arm: str, rates: dict[float, Points]) -> Figure:
    def draw(axes: Any) -> None:
        (ax,) = axes.flat
        for index, (lr, points) in enumerate(rates.items()):
            _points(ax, points, f"LR {lr:g}", index)
        ax.axhline(THRESHOLD, color="#555555", linewidth=0.8, linestyle=":", label=f"{THRESHOLD:g}: foretold to fail")
        ax.plot([], [], "x", color="#000000", label="crossed: the run diverged")
        label(ax, "parameters in the layers, N (1)", "largest attention logit,\nfirst layer (1)", log="xy")

    words = "; ".join(
        f"LR {lr:g}: " + ", ".join(f"{count(round(10**x))} {10**y:.3g}" for x, y, _ in p.runs)
        for lr, p in rates.items()
    )
    caption = (
        f"Largest attention logit of {arm} against size, one mark a run. Lines: power laws, or quadratics from three "
        "sizes on, drawn on to four times the largest size."
    )
    return figure(f"logits-{lab.arms.index(arm)}", caption, f"{caption} {words}.", draw)


def _points(ax: Any, points: Points, text: str, index: int) -> None:
    looks = look(index)
    ax.plot(10 ** np.array(points.x), 10 ** np.array(points.y), **looks | {"linestyle": ""}, label=text)
    lost = [(10**x, 10**y) for x, y, converged in points.runs if not converged]
    ax.plot([x for x, _ in lost], [y for _, y in lost], "x", color="#000000", markersize=8)
    if fit := points.fit(2) or points.fit(1):
        x = np.linspace(points.distinct[0], points.distinct[-1] + BEYOND, 60)
        drawn = {"color": looks["color"], "linestyle": looks["linestyle"], "linewidth": 1}
        ax.plot(10**x, [10 ** fit.at(each).mean for each in x], **drawn)

"""Early warnings: probes with thresholds that are set before any run is seen, and the step at which a loss turns."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runners.lab.lab import Lab
from runners.lab.probed import Array, Course, logits
from runners.lab.trials import LR, Trial

NEIGHBOURS = 2  # to either side, over which a loss is smoothed by its median
FLOOR = 1e-9  # below which a value counts as this, so that ratios and logarithms stay finite
SHARE = 0.5  # of the verdict's margin, above which a loss that stays there has turned


@dataclass(frozen=True)
class Alarm:
    """A quantity of a run and the threshold at which it warns; `relative` to its value at the end of the warm-up."""

    words: str
    read: Callable[[Trial], Course | None]
    threshold: float
    relative: bool = False
    falls: bool = False

    def course(self, trial: Trial) -> Course | None:
        """The quantity over its threshold: from 1 on it warns. None where it was not recorded.

        One that is relative begins behind the first recorded step at or after the end of the warm-up.
        """
        found = self.read(trial)
        if found is None or not self.relative:
            return found and self._over(found, self.threshold)
        warmed = trial.config.schedule.warmup_steps(trial.config.train.batch)
        place = int(np.searchsorted(found.steps, warmed))
        if place + 1 >= len(found.steps):
            return None
        after = Course(found.steps[place + 1 :], found.values[place + 1 :])
        return self._over(after, self.threshold * float(found.values[place]))

    def first(self, trial: Trial) -> int | None:
        """The first recorded step at which it warns."""
        found = self.course(trial)
        above = [] if found is None else found.steps[found.values >= 1].tolist()
        return int(above[0]) if above else None

    def _over(self, found: Course, threshold: float) -> Course:
        """Values over the threshold, or it over them where they warn by falling; none is 0 or infinite."""
        values, bound = np.maximum(found.values, FLOOR), max(threshold, FLOOR)
        return Course(found.steps, bound / values if self.falls else values / bound)


def turn(lab: Lab, trial: Trial) -> int | None:
    """The first logged step from which on a run's loss stays far above that of the best run at a lower rate.

    Far is half the margin of the verdict, at the same step of training. None where it never does, or where there is no
    such run.
    """
    other = reference(lab, trial)
    if other is None:
        return None
    losses, best = smooth(trial), smooth(other)
    steps = sorted(step for step in losses if step in best)
    turned = None
    for step in reversed(steps):
        if losses[step] - best[step] <= SHARE * lab.allowed:
            break
        turned = step
    return turned


def reference(lab: Lab, trial: Trial) -> Trial | None:
    """The run with the lowest final loss among those at lower rates that converged, everything else equal."""
    same = [each for each in lab.of(trial.arm, trial.size) if _others(each) == _others(trial)]
    lower = [each for each in same if each.lr < trial.lr and lab.converged(each)]
    return min(lower, key=lambda each: each.loss or math.inf, default=None)


def smooth(trial: Trial) -> dict[int, float]:
    """Training loss by step, each the median of itself and its neighbours; a loss that is none counts as infinite."""
    rows = [(row["step"], math.inf if row["loss"] is None else row["loss"]) for row in trial.rows]
    values, found = [loss for _, loss in rows], {}
    for place, (step, _) in enumerate(rows):
        reach = min(NEIGHBOURS, place, len(rows) - 1 - place)
        found[step] = median(values[place - reach : place + reach + 1])
    return found


def _others(trial: Trial) -> dict[str, Any]:
    return {axis: value for axis, value in trial.cell.settings.items() if axis != LR}


def _logit(trial: Trial) -> Course | None:
    """The largest logit of any layer."""
    return _folded(trial, logits(trial).values(), np.nanmax)


def _all(pattern: str, fold: Callable[..., Any] = np.nanmax) -> Callable[[Trial], Course | None]:
    """The largest, or another fold, of all series whose names match."""

    def read(trial: Trial) -> Course | None:
        return _folded(trial, trial.series.select(pattern) if trial.series else (), fold)

    return read


def _folded(trial: Trial, names: Iterable[str], fold: Callable[..., Any]) -> Course | None:
    """Several series as one, at the steps where any of them has a number; None where none ever had one."""
    if trial.series is None or not (columns := [np.asarray(trial.series[name], float) for name in names]):
        return None
    rows: NDArray[np.float64] = np.stack(columns)
    kept = ~np.isnan(rows).all(axis=0)
    values: Array = fold(rows[:, kept], axis=0)
    return Course(trial.series.steps[kept], values) if kept.any() else None


def _gradient(trial: Trial) -> Course | None:
    rows = [(row["step"], row["grad_norm"]) for row in trial.rows if row.get("grad_norm") is not None]
    return Course(np.array([step for step, _ in rows]), np.array([norm for _, norm in rows])) if rows else None


def _negative(trial: Trial) -> Course | None:
    found = _all("logits.mean")(trial)
    return Course(found.steps, -found.values) if found else None


ALARMS = (
    Alarm("largest attention logit of any layer at 1000", _logit, 1e3),
    Alarm("largest attention logit of any layer at 100", _logit, 1e2),
    Alarm("half of a layer's rows nearly one-hot", _all("**.one_hot"), 0.5),
    Alarm("mean entropy of a layer's rows down to 0.5 nats", _all("**.entropy", np.nanmin), 0.5, falls=True),
    Alarm("norm of a linear's output 10 times that after warm-up", _all("**.y.l2"), 10.0, relative=True),
    Alarm("RMS of a layer's output 10 times that after warm-up", _all("*.*.x.rms"), 10.0, relative=True),
    Alarm("mean output logit down to -10", _negative, 10.0),
    Alarm("gradient norm 10 times that after warm-up", _gradient, 10.0, relative=True),
)

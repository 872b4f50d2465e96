"""Loss and sensitivity against a setting that the study varies: warm-up, weight decay, z-loss, epsilon (2309.14322)."""

from typing import Any

from runners.lab.intervals import estimate
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.section import Section, Table
from runners.lab.sections.rates import by_seed
from runners.lab.trials import LR, SEED, Trial, distinct, words_of
from runners.lab.words import interval, number

TITLE = "What warm-up, decay, z-loss and epsilon change (Wortsman, Figures 3, 5, 6 and 12)"
STEPS = ("schedule.warmup", "train.steps")  # settings counted in steps; all others have no unit
HOW = (
    "Each setting that the study varies as a number, everything else held: the best final loss over the learning "
    "rates, and LR sensitivity S, divided by the number of points, with 95 % intervals over seeds."
)

Points = list[tuple[float, str, str]]  # value of the setting, arm and size


def section(lab: Lab) -> Section:
    """A figure and a table for each such setting."""
    found = {axis: lines for axis in lab.study.axes if (lines := lines_of(lab, axis))}
    if not found or len(lab.rates) < 2:
        return Section(TITLE, missing="an axis of numbers besides learning rate, size and seed")
    tables = tuple(_table(lab, axis, lines) for axis, lines in found.items())
    return Section(TITLE, (HOW,), tables, tuple(_figure(lab, axis, lines) for axis, lines in found.items()))


def lines_of(lab: Lab, axis: str) -> dict[str, Points]:
    """For a numeric axis: lines along which nothing else but the learning rate and the seed changes."""
    values = lab.study.axes[axis]
    if axis in (LR, SEED) or "." not in axis or not all(isinstance(v, int | float) for v in values) or len(values) < 2:
        return {}
    lines: dict[str, Points] = {}
    for trial in (trial for trial in lab.of() if axis in trial.cell.settings):
        point = float(trial.cell.settings[axis]), trial.arm, trial.size
        lines.setdefault(_others(lab, trial, axis), []).append(point)
    return {name: sorted(distinct(points)) for name, points in lines.items() if len(distinct(points)) > 1}


def _others(lab: Lab, trial: Trial, axis: str) -> str:
    """What a line is called: the trial's values on all other axes."""
    return words_of(trial.cell, (name for name in lab.study.axes if name not in (axis, LR, SEED)))


def _table(lab: Lab, axis: str, lines: dict[str, Points]) -> Table:
    rows = []
    for name, points in lines.items():
        for value, arm, size in points:
            best, found = lab.best(arm, size), by_seed(lab, arm, size)
            loss = number(lab.curve(arm, size)[best], 4) if best else "diverged"
            spread = interval(estimate(found), 3) if found else ""
            rows.append((name or "all", f"{value:g}", number(best), loss, spread))
    headings = ("others", _short(axis), "best LR", "loss there (nats)", "S (nats)")
    return Table(f"Against {axis}.", headings, tuple(rows))


def _figure(lab: Lab, axis: str, lines: dict[str, Points]) -> Figure:
    unit = "steps" if axis in STEPS else "1"
    log = "x" if all(value > 0 for points in lines.values() for value, _, _ in points) else ""

    def draw(axes: Any) -> None:
        left, right = axes.flat
        for index, (name, points) in enumerate(lines.items()):
            kept = [(v, lab.curve(a, s)[best]) for v, a, s in points if (best := lab.best(a, s)) is not None]
            left.plot([v for v, _ in kept], [loss for _, loss in kept], **look(index), label=name or None)
            spread = [(v, estimate(found).mean) for v, a, s in points if (found := by_seed(lab, a, s))]
            right.plot([v for v, _ in spread], [s for _, s in spread], **look(index))
        label(left, f"{_short(axis)} ({unit})", "best final loss\n(nats per token)", log)
        label(right, f"{_short(axis)} ({unit})", "LR sensitivity S (nats)", log)

    caption = f"Best final loss and LR sensitivity against {axis}."
    words = "; ".join(f"{name or 'all'}: {', '.join(f'{v:g}' for v, _, _ in points)}" for name, points in lines.items())
    return figure(
        f"knob-{_short(axis).replace('_', '-')}", caption, f"{caption} Lines and values: {words}.", draw, 1, 2, 2.6
    )


def _short(axis: str) -> str:
    return axis.rpartition(".")[2]

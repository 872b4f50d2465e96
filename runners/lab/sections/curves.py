"""Loss against tokens for all methods on one figure, and how soon each reaches a loss (figure 2 of 2410.16682)."""

import math
from statistics import median
from typing import Any

from runners.lab.intervals import geometric
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.section import Section, Table
from runners.lab.trials import Trial
from runners.lab.words import NONE, whole

TITLE = "Loss curves, and steps to reach a loss (Figure 2)"
POINTS = 50  # of a drawn curve that are apart: losses are averaged over as much as lies between two
TOP = 1.15  # of the initial loss, above which curves are cut off
HOW = (
    "Does a higher stable learning rate converge faster? Steps are those to the first validation at or below a loss "
    "that every block reached at its best rate; the geometric mean over seeds with its 95 % interval."
)


def section(lab: Lab) -> Section:
    """Curves of every arm at its best learning rate and of one arm at every rate, and the table of steps."""
    if not any(trial.rows for trial in lab.of()):
        return Section(TITLE, missing="runs that are over")
    figures: list[Figure] = []
    tables: list[Table] = []
    for size in lab.sizes:
        best = {arm: lr for arm in lab.arms if (lr := lab.best(arm, size)) is not None}
        if best:
            figures = [_methods(lab, size, best)]  # of the largest size alone
            tables += _steps(lab, size, best)
    figures += [_rates(lab, lab.sizes[-1], arm) for arm in _two(lab) if lab.of(arm, lab.sizes[-1])]
    return Section(TITLE, (HOW,), tuple(tables), tuple(figures))


def steps_to(trial: Trial, loss: float) -> int | None:
    """The step of the first validation at or below a loss; None where there was none."""
    return next((row["step"] for row in trial.rows if (row.get("val_loss") or math.inf) <= loss), None)


def smoothed(values: list[float], points: int = POINTS) -> list[float]:
    """Exponential moving average over a share of all values; the first is itself, and few values stay as they are."""
    share = max(0.0, 1 - points / len(values)) if values else 0.0
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = share * total + value, share * weight + 1
        found.append(total / weight)
    return found


def _two(lab: Lab) -> list[str]:
    """The arms whose learning rates are shown apart: the first one, which is the baseline, and the reference."""
    return list(dict.fromkeys((lab.arms[0], lab.reference)))


def _methods(lab: Lab, size: str, best: dict[str, float]) -> Figure:
    def draw(axes: Any) -> None:
        (ax,) = axes.flat
        for index, (arm, lr) in enumerate(best.items()):
            _line(ax, lab.of(arm, size, lr)[0], f"{arm}, LR {lr:g}", index)
        label(ax, "training tokens (millions)", "training loss (nats per token)")

    caption = f"Training loss of every method at its best learning rate{lab.sized(size)}, first seed, smoothed."
    ends = "; ".join(f"{arm} {_end(lab.of(arm, size, lr)[0])}" for arm, lr in best.items())
    return figure("methods", caption, f"{caption} Final validation losses: {ends}.", draw)


def _rates(lab: Lab, size: str, arm: str) -> Figure:
    rates = [lr for lr in lab.rates if lab.of(arm, size, lr)]

    def draw(axes: Any) -> None:
        (ax,) = axes.flat
        tops = []
        for index, lr in enumerate(rates):
            trial = lab.of(arm, size, lr)[0]
            ended = "" if lab.converged(trial) else ", diverged"
            _line(ax, trial, f"LR {lr:g}{ended}", index)
            tops.append(trial.initial or 0.0)
        label(ax, "training tokens (millions)", "training loss (nats per token)")
        ax.set_ylim(top=min(ax.get_ylim()[1], TOP * max(tops)))

    caption = f"Training loss of {arm}{lab.sized(size)} at every learning rate, first seed, smoothed: how it stops."
    ends = "; ".join(f"LR {lr:g} {_end(lab.of(arm, size, lr)[0])}" for lr in rates)
    return figure(f"rates-{lab.arms.index(arm)}", caption, f"{caption} Final validation losses: {ends}.", draw)


def _line(ax: Any, trial: Trial, text: str, index: int) -> None:
    rows = [row for row in trial.rows if row["loss"] is not None]
    values = smoothed([row["loss"] for row in rows])
    ax.plot(
        [row["tokens"] / 1e6 for row in rows],
        values,
        **look(index),
        markevery=(index, max(1, len(rows) // 8)),
        label=text,
    )


def _end(trial: Trial) -> str:
    return f"{trial.loss:.3f}" if trial.loss is not None and math.isfinite(trial.loss) else "diverged"


def _steps(lab: Lab, size: str, best: dict[str, float]) -> list[Table]:
    """Steps to the worst of the best final losses, and to a loss halfway there."""
    finals = [median(x for x in lab.losses(arm, size, lr).values()) for arm, lr in best.items()]
    initial = lab.initial(lab.reference, size)
    if initial is None or len(best) < 2:
        return []
    hard, easy = max(finals), (max(finals) + initial) / 2
    rows = []
    for arm, lr in best.items():
        trials = lab.of(arm, size, lr)
        rows.append((arm, f"{lr:g}", *(_told([steps_to(trial, loss) for trial in trials]) for loss in (easy, hard))))
    headings = ("block", "best LR", f"steps to {easy:.3f} nats", f"steps to {hard:.3f} nats")
    return [Table(f"Steps until the validation loss first reached a value{lab.sized(size)}.", headings, tuple(rows))]


def _told(steps: list[int | None]) -> str:
    reached = [step for step in steps if step is not None]
    if not reached:
        return NONE
    lost = f" ({len(steps) - len(reached)} of {len(steps)} seeds never)" if len(reached) < len(steps) else ""
    return whole(geometric(reached)) + lost

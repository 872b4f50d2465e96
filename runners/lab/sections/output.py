"""Drift of the output logits, with and without z-loss and weight decay (2309.14322, figures 3 and 4)."""

from typing import Any

from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import course
from runners.lab.section import Section, Table
from runners.lab.trials import Trial
from runners.lab.words import NONE, number

TITLE = "Drift of the output logits (Wortsman, Figures 3 and 4)"
KINDS = (("logits.mean", "mean of the output logits (1)"), ("logits.log_z", "mean of log Z (nats)"))
HOW = (
    "Without z-loss the output logits are free to drift: adding a constant to all of them changes no probability. At "
    "high rates they become very negative late in training, and small differences are lost in the precision of the "
    "arithmetic."
)


def section(lab: Lab) -> Section:
    """Their course for every arm at the highest learning rate that was probed, and where they ended at all rates."""
    size = lab.sizes[-1]
    probed = [trial for trial in lab.of(size=size) if course(trial, KINDS[0][0]) and trial.seed == lab.seeds[0]]
    if not probed:
        return Section(TITLE, missing="the probes of the output logits")
    highest = max(trial.lr for trial in probed)
    shown = [trial for trial in probed if trial.lr == highest]
    return Section(TITLE, (HOW,), (_table(lab, probed),), (_figure(lab, size, shown),))


def _figure(lab: Lab, size: str, shown: list[Trial]) -> Figure:
    def draw(axes: Any) -> None:
        for ax, (name, words) in zip(axes.flat, KINDS, strict=True):
            for index, trial in enumerate(shown):
                if found := course(trial, name):
                    every = max(1, len(found.steps) // 6)
                    ax.plot(found.steps, found.values, **look(index), markevery=every, label=trial.arm)
            label(ax, "step", words)

    caption = f"Output logits over the run{lab.sized(size)}, LR {shown[0].lr:g}, first seed."
    ends = "; ".join(f"{trial.arm} {number(_end(trial, KINDS[0][0]))}" for trial in shown)
    return figure("output", caption, f"{caption} Mean logit at the end: {ends}.", draw, 1, 2, 2.6)


def _table(lab: Lab, probed: list[Trial]) -> Table:
    rows = []
    for arm in lab.arms:
        if own := [trial for trial in probed if trial.arm == arm]:
            ends = {trial.lr: _end(trial, KINDS[0][0]) for trial in own}
            rows.append((arm, *(number(ends[lr]) if lr in ends else NONE for lr in lab.rates)))
    headings = ("arm", *(f"LR {lr:g}" for lr in lab.rates))
    return Table("Mean of the output logits at the last probed step, first seed.", headings, tuple(rows))


def _end(trial: Trial, name: str) -> float | None:
    found = course(trial, name)
    return found.last if found else None

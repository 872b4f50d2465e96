"""Attention over a run: largest logit, entropy, rows that are nearly one-hot, capped logits, and gains of the norms."""

from dataclasses import dataclass
from typing import Any

from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import Course, course, logit, sites
from runners.lab.section import Section, Table
from runners.lab.trials import Trial
from runners.lab.words import NONE, number

TITLE = "Attention over the run, and what warns early"
LAYER = 0  # where Wortsman et al. look
LIMIT = 1e3  # logit that warns: from about there on a transplanted model's loss degrades (2309.14322, section 3.3)
HOW = (
    f"Layer {LAYER} of every arm at one learning rate: the lowest at which a run of the first arm diverged, or else "
    f"the highest. The warning is the first recorded step with a logit of {LIMIT:g} or more; its lead is what was left "
    "until the run ended, or until its training loss last stood at its lowest."
)


@dataclass(frozen=True)
class Kind:
    """A quantity of attention: the end of its series' names, words with the unit, whether its axis is logarithmic."""

    end: str
    words: str
    log: bool = False


KINDS = (
    Kind("", "largest logit (1)", log=True),
    Kind(".entropy", "entropy of a row (nats)"),
    Kind(".one_hot", "rows with a weight\nabove 0.9 (share)"),
    Kind(".saturation", "saturation of the cap\n(share)"),
    Kind(".gains.max", "largest product\nof gains (1)", log=True),
)


def section(lab: Lab) -> Section:
    """The courses of all arms at one learning rate, and the steps at which their logits warned."""
    size = lab.sizes[-1]
    lr = _rate(lab, size)
    shown = [trials[0] for arm in lab.arms if lr is not None and (trials := _probed(lab, arm, size, lr))]
    if not shown:
        return Section(TITLE, missing="probes of attention")
    figures = (_figure(lab, size, shown),)
    return Section(TITLE, (HOW,), (_warnings(lab, size),), figures)


def _rate(lab: Lab, size: str) -> float | None:
    probed = [trial for trial in lab.of(size=size) if logit(trial)]
    lost = [trial.lr for trial in probed if trial.arm == lab.arms[0] and not lab.converged(trial)]
    return min(lost) if lost else max((trial.lr for trial in probed), default=None)


def _probed(lab: Lab, arm: str, size: str, lr: float) -> list[Trial]:
    return [trial for trial in lab.of(arm, size, lr) if logit(trial)]


def _course(trial: Trial, kind: Kind) -> Course | None:
    """A quantity of the layer; of several nodes the first."""
    if not kind.end:
        return logit(trial, LAYER)
    found = sites(trial, LAYER, kind.end)
    return course(trial, f"{found[0]}{kind.end}") if found else None


def _figure(lab: Lab, size: str, shown: list[Trial]) -> Figure:
    kinds = [kind for kind in KINDS if any(_course(trial, kind) for trial in shown)]

    def draw(axes: Any) -> None:
        for ax, kind in zip(axes.flat, kinds, strict=False):
            for index, trial in enumerate(shown):
                if found := _course(trial, kind):
                    ends = "" if lab.converged(trial) else ", diverged"
                    every = max(1, len(found.steps) // 5)
                    ax.plot(found.steps, found.values, **look(index), markevery=every, label=f"{trial.arm}{ends}")
            label(ax, "step", kind.words, log="y" if kind.log else "")
        for ax in axes.flat[len(kinds) :]:
            ax.set_visible(False)

    caption = f"Attention in layer {LAYER} over the run, {size}, LR {shown[0].lr:g}, first seed."
    words = "; ".join(f"{trial.arm} {number(_last(trial))}" for trial in shown)
    rows = -(-len(kinds) // 2)
    columns = min(2, len(kinds))
    return figure("attention", caption, f"{caption} Largest logits at the end: {words}.", draw, rows, columns, 2.1)


def _last(trial: Trial) -> float | None:
    found = logit(trial, LAYER)
    return found.last if found else None


def _warnings(lab: Lab, size: str) -> Table:
    rows = []
    for trial in lab.of(size=size):
        if (found := logit(trial, LAYER)) and trial.seed == lab.seeds[0]:
            above = [int(step) for step, value in zip(found.steps, found.values, strict=True) if value >= LIMIT]
            lead = str(_turn(trial) - above[0]) if above else NONE
            verdict = "converged" if lab.converged(trial) else "diverged"
            first = str(above[0]) if above else "never"
            rows.append((trial.arm, f"{trial.lr:g}", number(found.last), first, lead, verdict))
    headings = ("arm", "LR", "logit at the end", f"first step at {LIMIT:g}", "lead (steps)", "outcome")
    return Table(f"Largest attention logit of layer {LAYER} as a warning, {size}, first seed.", headings, tuple(rows))


def _turn(trial: Trial) -> int:
    """The step from which on a run's training loss was never as low again; its last one where it fell to the end."""
    rows = [row for row in trial.rows if row["loss"] is not None]
    lowest = min(rows, key=lambda row: (row["loss"], -row["step"]), default={"step": 0})
    return int(lowest["step"])

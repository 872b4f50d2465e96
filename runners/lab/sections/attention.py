"""Attention over a run: largest logit, entropy, rows that are nearly one-hot, capped logits, and gains of the norms."""

from dataclasses import dataclass
from typing import Any

from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import Course, course, logit, sites
from runners.lab.section import Section
from runners.lab.trials import Trial
from runners.lab.words import number

TITLE = "Attention over the run"
LAYER = 0  # where Wortsman et al. look
HOW = (
    f"Layer {LAYER} of every arm at one learning rate: the lowest at which a run of the first arm diverged, or else "
    "the highest."
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
    """The courses of all arms at one learning rate."""
    size = lab.sizes[-1]
    lr = _rate(lab, size)
    shown = [trials[0] for arm in lab.arms if lr is not None and (trials := _probed(lab, arm, size, lr))]
    if not shown:
        return Section(TITLE, missing="probes of attention")
    figures = (_figure(lab, size, shown),)
    return Section(TITLE, (HOW,), (), figures)


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

    caption = f"Attention in layer {LAYER} over the run{lab.sized(size)}, LR {shown[0].lr:g}, first seed."
    words = "; ".join(f"{trial.arm} {number(_last(trial))}" for trial in shown)
    rows = -(-len(kinds) // 2)
    columns = min(2, len(kinds))
    return figure("attention", caption, f"{caption} Largest logits at the end: {words}.", draw, rows, columns, 2.1)


def _last(trial: Trial) -> float | None:
    found = logit(trial, LAYER)
    return found.last if found else None

"""Gradient and update RMS against size and learning rate, beside AdamW's epsilon (2309.14322, section 3.4)."""

from typing import Any

import numpy as np

from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import course
from runners.lab.section import Section, Table
from runners.lab.trials import Trial
from runners.lab.words import count, number

TITLE = "Gradients against AdamW's epsilon (Wortsman, Figures 11 to 13)"
LAYER, MATRIX = 0, ".fc1"  # the first matrix of the first layer's MLP, as in the paper
GRADIENT, UPDATE = ".dweight.rms", ".weight.update_rms"
TAIL = 0.1  # of the run, over whose recorded steps the values are averaged
HOW = (
    "RMS of the gradient of the first MLP matrix of layer 0, and of its update before the learning rate is multiplied, "
    f"as means over the probed steps of the last {TAIL:.0%} of the run. Gradients shrink as models and rates grow. "
    "Where their RMS nears epsilon, epsilon damps the update, whose RMS is otherwise of the order of 1."
)


def section(lab: Lab) -> Section:
    """Both against the learning rate, a line for each arm and size, and a table."""
    found = {
        (arm, size): kept for arm in lab.arms for size in lab.sizes
        if (kept := [trial for trial in lab.of(arm, size) if late(trial, GRADIENT) and trial.seed == lab.seeds[0]])
    }  # fmt: skip
    if not found:
        return Section(TITLE, missing="the probes of gradients and updates of fc1 in layer 0")
    rows = [
        (arm, size, count(trial.parameters), f"{trial.lr:g}", f"{trial.config.optim.eps:g}",
         number(late(trial, GRADIENT)), number(late(trial, UPDATE)), number(_ratio(trial), 2))
        for (arm, size), trials in found.items() for trial in trials
    ]  # fmt: skip
    headings = ("arm", "size", "N", "LR", "epsilon", "gradient RMS (nats)", "update RMS (1)", "gradient / epsilon")
    table = Table("Gradient and update RMS late in training, first seed.", headings, tuple(rows))
    return Section(TITLE, (HOW,), (table,), (_figure(found),))


def late(trial: Trial, quantity: str) -> float | None:
    """The mean of a quantity of the matrix over the end of a run; None where it was not recorded."""
    names = trial.series.names if trial.series else ()
    name = next((n for n in names if n.endswith(f"{MATRIX}{quantity}") and f".{LAYER}." in n), "")
    seen = course(trial, name)
    if seen is None:
        return None
    first = np.searchsorted(seen.steps, (1 - TAIL) * seen.steps[-1])
    return float(seen.values[first:].mean())


def _ratio(trial: Trial) -> float | None:
    gradient = late(trial, GRADIENT)
    return gradient / trial.config.optim.eps if gradient is not None else None


def _figure(found: dict[tuple[str, str], list[Trial]]) -> Figure:
    kinds = ((GRADIENT, "gradient RMS (nats)"), (UPDATE, "update RMS (1)"))

    def draw(axes: Any) -> None:
        for ax, (quantity, words) in zip(axes.flat, kinds, strict=True):
            for index, ((arm, size), trials) in enumerate(found.items()):
                points = [(trial.lr, value) for trial in trials if (value := late(trial, quantity))]
                ax.plot([lr for lr, _ in points], [v for _, v in points], **look(index), label=f"{arm}, {size}")
            label(ax, "peak learning rate (1)", words, log="xy")
        for eps in sorted({trial.config.optim.eps for trials in found.values() for trial in trials}):
            axes.flat[0].axhline(eps, color="#555555", linewidth=0.8, linestyle=":", label=f"epsilon {eps:g}")

    caption = "RMS of gradient and update of the first MLP matrix in layer 0, late in training, first seed."
    words = "; ".join(
        f"{arm}, {size}: " + ", ".join(f"{t.lr:g} gives {number(late(t, GRADIENT))}" for t in trials)
        for (arm, size), trials in found.items()
    )
    return figure("epsilon", caption, f"{caption} {words}.", draw, 1, 2, 2.6)

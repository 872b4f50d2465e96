"""Loss against learning rate at every size, and learning-rate sensitivity against size (2309.14322, figure 1)."""

import math
from typing import Any

from runners.lab.intervals import Estimate, estimate
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look, room
from runners.lab.section import Section, Table
from runners.lab.sensitivity import COUPLED, WINDOW, Convention, sensitivity, within
from runners.lab.words import NONE, count, interval, number

TITLE = "Learning-rate sensitivity (Wortsman, Figure 1)"
HOW = (
    "S is the mean over the learning rates of the grid of min(final loss, initial loss) - best loss, in nats; a run "
    "that diverged enters with its initial loss. Divided by the number of points, as in the paper, and by the number "
    "of intervals, as in a public implementation. S is taken for each seed; intervals are 95 % t intervals over seeds. "
    "It is blind to the level of the loss, so read it beside the curves, and it means little where what is compared "
    "changes what a learning rate means: the curves then part below the critical rate too."
)
EVERYWHERE = (0.0, math.inf)


def section(lab: Lab) -> Section:
    """Curves, S by arm and size, and S against size where there are several."""
    if len(lab.rates) < 2 or not any(lab.of(arm, size) for arm in lab.arms for size in lab.sizes):
        return Section(TITLE, missing="runs that are over, at two learning rates or more")
    figures = [_curves(lab)]
    if len(lab.sizes) > 1:
        figures.append(_against_size(lab))
    return Section(TITLE, (HOW, _grid(lab)), (_table(lab),), tuple(figures))


def by_seed(lab: Lab, arm: str, size: str, convention: Convention = "points", paper: bool = False) -> list[float]:
    """S of each seed, over the whole grid or over the paper's range; none where fewer than two rates were run."""
    found: dict[int, dict[float, float]] = {}
    for trial in lab.of(arm, size):
        found.setdefault(trial.seed, {})[trial.lr] = math.inf if trial.loss is None else trial.loss
    initial = lab.initial(arm, size)
    windows = _windows(lab, arm, size) if paper else (EVERYWHERE,)
    cut = [[part for window in windows if len(part := within(curve, window)) > 1] for curve in found.values()]
    return [min(sensitivity(c, initial, convention) for c in parts) for parts in cut if parts and initial is not None]


def _windows(lab: Lab, arm: str, size: str) -> tuple[tuple[float, float], ...]:
    """The paper's range of learning rates; of two where weight decay is coupled, because that moves the optimum."""
    return COUPLED if lab.of(arm, size)[0].config.optim.decay == "coupled" else (WINDOW,)


def _grid(lab: Lab) -> str:
    low, high = lab.rates[0], lab.rates[-1]
    inside = len(within(dict.fromkeys(lab.rates, 0.0), WINDOW))
    return (
        f"This grid: {len(lab.rates)} rates from {low:g} to {high:g}; {inside} of them lie in the paper's range of "
        f"{WINDOW[0]:g} to {WINDOW[1]:g}."
    )


def _table(lab: Lab) -> Table:
    rows = []
    for arm in lab.arms:
        for size in lab.sizes:
            if points := by_seed(lab, arm, size):
                intervals, paper = by_seed(lab, arm, size, "intervals"), by_seed(lab, arm, size, paper=True)
                best, curve = lab.best(arm, size), lab.curve(arm, size)
                rows.append((
                    arm, size, count(lab.parameters(size)), interval(estimate(points), 3),
                    interval(estimate(intervals), 3), interval(estimate(paper), 3) if paper else NONE, number(best),
                    number(curve[best] if best else None, 4), f"{len(curve)} of {len(lab.rates)}",
                ))  # fmt: skip
    headings = (
        "arm",
        "size",
        "N",
        "S (by points)",
        "S (by intervals)",
        "S (the paper's range)",
        "best LR",
        "loss there (nats)",
        "rates run",
    )
    return Table(
        "Learning-rate sensitivity S in nats, and the optimum that it is measured from.", headings, tuple(rows)
    )


def _curves(lab: Lab) -> Figure:
    """A panel for each size with a line for each arm."""
    sizes = [size for size in lab.sizes if lab.of(size=size)]
    tops = {size: max(lab.initial(arm, size) or 0.0 for arm in lab.arms) for size in sizes}

    def draw(axes: Any) -> None:
        for ax, size in zip(axes.flat, sizes, strict=False):
            for index, arm in enumerate(lab.arms):
                if curve := lab.curve(arm, size):
                    values = room(ax, list(curve.values()), tops[size])
                    ax.plot(list(curve), values, **look(index), label=arm)
            ax.axhline(
                tops[size],
                color="#555555",
                linewidth=0.8,
                linestyle=":",
                label="initial loss, or diverged",
            )
            label(ax, "peak learning rate (1)", "final validation loss\n(nats per token)", log="x")
            ax.set_title(f"{size}, N = {count(lab.parameters(size))}" if len(lab.sizes) > 1 else "")
        for ax in axes.flat[len(sizes) :]:
            ax.set_visible(False)

    columns = min(2, len(sizes))
    words = "; ".join(
        f"{arm}{lab.sized(size)}: "
        + ", ".join(f"{lr:g} gives {number(loss, 4)}" for lr, loss in lab.curve(arm, size).items())
        for size in sizes for arm in lab.arms if lab.curve(arm, size)
    )  # fmt: skip
    caption = "Final validation loss against peak learning rate, median over seeds."
    height = 3.4 if len(sizes) == 1 else 2.7
    return figure(
        "loss-by-rate", caption, f"{caption} {words}.", draw, math.ceil(len(sizes) / columns), columns, height
    )


def _against_size(lab: Lab) -> Figure:
    found = {arm: _points(lab, arm) for arm in lab.arms}

    def draw(axes: Any) -> None:
        (ax,) = axes.flat
        for index, (arm, points) in enumerate(found.items()):
            ends = [(n, each) for n, each in points if each.low is not None]
            ax.plot([n for n, _ in points], [each.mean for _, each in points], **look(index), label=arm)
            ax.vlines(
                [n for n, _ in ends], [each.low for _, each in ends], [each.high for _, each in ends],
                color=look(index)["color"], linewidth=0.9,
            )  # fmt: skip
        label(ax, "parameters in the layers, N (1)", "LR sensitivity S (nats)", log="x")
        ax.set_ylim(bottom=0)

    words = "; ".join(
        f"{arm}: " + ", ".join(f"{count(n)} {each.mean:.3f}" for n, each in points) for arm, points in found.items()
    )
    caption = "LR sensitivity (divided by the number of points) against size; lines up and down are 95 % intervals."
    return figure("sensitivity-by-size", caption, f"{caption} {words}.", draw, height=3.2)


def _points(lab: Lab, arm: str) -> list[tuple[int, Estimate]]:
    """S at each size where it is known, by number of parameters."""
    return [(lab.parameters(size), estimate(values)) for size in lab.sizes if (values := by_seed(lab, arm, size))]

"""Depth against width at equal parameters: which of the two raises the sensitivity faster (2309.14322, figure 7)."""

import math
from collections.abc import Callable
from typing import Any

from runners.lab.intervals import estimate
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.section import Section, Table
from runners.lab.sections.rates import by_seed
from runners.lab.trials import Trial
from runners.lab.words import count, interval, number

TITLE = "Depth against width (Wortsman, Figure 7)"
HOW = "Sizes that differ in depth alone, and sizes that differ in width alone, each as a line against their parameters."


def section(lab: Lab) -> Section:
    """The lines and a table, where the study holds depth or width while it varies the other."""
    lines = {(arm, name): sizes for arm in lab.arms for name, sizes in lines_of(lab, arm).items()}
    if not lines or len(lab.rates) < 2:
        return Section(TITLE, missing="sizes that differ in depth alone or in width alone")
    rows = []
    for (arm, name), sizes in lines.items():
        for size in sizes:
            trial, best = lab.of(arm, size)[0], lab.best(arm, size)
            loss = number(lab.curve(arm, size)[best], 4) if best else "diverged"
            spread = interval(estimate(by_seed(lab, arm, size)), 3)
            rows.append((arm, name, str(trial.depth), str(trial.width), count(trial.parameters), loss, spread))
    headings = ("arm", "line", "layers", "width", "N", "best loss (nats)", "S (nats)")
    return Section(TITLE, (HOW,), (Table("Depth against width.", headings, tuple(rows)),), (_figure(lab, lines),))


def lines_of(lab: Lab, arm: str) -> dict[str, list[str]]:
    """Sizes of an arm along which one of depth and width is held, smallest first."""
    trials = {size: found[0] for size in lab.sizes if (found := lab.of(arm, size)) and by_seed(lab, arm, size)}
    deeper = _held(trials, lambda trial: f"deeper, width {trial.width}", lambda trial: trial.depth)
    wider = _held(trials, lambda trial: f"wider, {trial.depth} layers", lambda trial: trial.width)
    return deeper | wider


def _held(
    trials: dict[str, Trial], name: Callable[[Trial], str], varied: Callable[[Trial], int]
) -> dict[str, list[str]]:
    """Sizes by the name of what they share, where the other quantity varies among them."""
    found: dict[str, list[str]] = {}
    for size, trial in trials.items():
        found.setdefault(name(trial), []).append(size)
    return {key: sizes for key, sizes in found.items() if len({varied(trials[size]) for size in sizes}) > 1}


def _figure(lab: Lab, lines: dict[tuple[str, str], list[str]]) -> Figure:
    def draw(axes: Any) -> None:
        left, right = axes.flat
        for index, ((arm, name), sizes) in enumerate(lines.items()):
            x = [lab.of(arm, size)[0].parameters for size in sizes]
            best = [lab.best(arm, size) for size in sizes]
            losses = [lab.curve(arm, s)[b] if b else math.nan for s, b in zip(sizes, best, strict=True)]
            left.plot(x, losses, **look(index), label=f"{arm}: {name}")
            right.plot(x, [estimate(by_seed(lab, arm, size)).mean for size in sizes], **look(index))
        label(left, "parameters in the layers, N (1)", "best final loss\n(nats per token)", log="x")
        label(right, "parameters in the layers, N (1)", "LR sensitivity S (nats)", log="x")

    caption = "Best final loss and LR sensitivity of models that grow in depth alone and in width alone."
    words = "; ".join(f"{arm}, {name}: {', '.join(sizes)}" for (arm, name), sizes in lines.items())
    return figure("shape", caption, f"{caption} {words}.", draw, 1, 2, 2.6)

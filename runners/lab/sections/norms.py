"""Tables 1 and 2 of 2410.16682 as figures: norms of W, X, Y and dX of a run that converges and of one that diverges."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import common_step, course, layers, short, sites
from runners.lab.section import Section, Table
from runners.lab.trials import Trial
from runners.lab.words import NONE, number

TITLE = "Norms of the linears, converging against diverging (Tables 1 and 2)"
FORWARD = (("weight.l2", "W", "1"), ("x.l2", "X", "1"), ("y.l2", "Y", "1"))
BACKWARD = (("dx.l2", "dX", "nats"), ("dy.l2", "dY", "nats"))
Kinds = tuple[tuple[str, str, str], ...]  # quantity, letter, unit
GREW = 2.0  # the paper's "more than twice"


@dataclass(frozen=True)
class Pair:
    """Two runs of one arm, size and seed: at the highest rate that converged below one that diverged, and there."""

    steady: Trial
    lost: Trial

    @property
    def both(self) -> tuple[tuple[str, Trial], ...]:
        """The runs with their labels."""
        told = ((self.steady, "converges"), (self.lost, "diverges"))
        return tuple((f"LR {trial.lr:g}, {verdict}", trial) for trial, verdict in told)


def section(lab: Lab) -> Section:
    """The figures for one layer, and how much higher every norm of every layer ends in the diverging run."""
    pair = pair_of(lab)
    if pair is None:
        return Section(TITLE, missing="probes of the linears in a run that converged and in one that diverged")
    found = layers(pair.steady, ".y.l2")
    layer = lab.layer if lab.layer in found else found[0]
    where = f"{pair.steady.arm}{lab.sized(pair.steady.size)}, seed {pair.steady.seed}, layer {layer}"
    figures = [
        _figure(pair, layer, kinds, f"L2 norms of {_letters(kinds)} of every linear: {where}.", name)
        for name, kinds in (("norms", _recorded(pair, layer, FORWARD)), ("gradients", _recorded(pair, layer, BACKWARD)))
        if _whole(pair, layer, kinds)
    ]
    text = f"Both runs share everything but the learning rate: {where}; the other layers stand in the table."
    return Section(TITLE, (text,), (_growth(pair, found),), tuple(figures))


def pair_of(lab: Lab) -> Pair | None:
    """The first arm, and of it the largest size and first seed, that has both runs with probes."""
    for arm in lab.arms:
        for size in reversed(lab.sizes):
            for seed in lab.seeds:
                probed = [t for t in lab.of(arm, size) if t.seed == seed and layers(t, ".y.l2")]
                if pair := _pair(lab, sorted(probed, key=lambda trial: trial.lr)):
                    return pair
    return None


def _pair(lab: Lab, trials: list[Trial]) -> Pair | None:
    for steady, lost in pairwise(trials):
        if lab.converged(steady) and not lab.converged(lost):
            return Pair(steady, lost)
    return None


def _recorded(pair: Pair, layer: int, kinds: Kinds) -> Kinds:
    """Those of the quantities that were asked for, all of them or not."""
    return tuple(kind for kind in kinds if any(site in _linears(pair, layer) for site in _sites(pair, layer, kind)))


def _whole(pair: Pair, layer: int, kinds: Kinds) -> list[str]:
    """The linears of which all these quantities were recorded; none where there are no quantities."""
    return [s for s in _linears(pair, layer) if kinds and all(s in _sites(pair, layer, kind) for kind in kinds)]


def _linears(pair: Pair, layer: int) -> list[str]:
    return sites(pair.steady, layer, ".y.l2")


def _sites(pair: Pair, layer: int, kind: tuple[str, str, str]) -> list[str]:
    return sites(pair.steady, layer, f".{kind[0]}")


def _letters(kinds: Kinds) -> str:
    *first, last = (letter for _, letter, _ in kinds)
    return f"{', '.join(first)} and {last}" if first else last


def _figure(pair: Pair, layer: int, kinds: Kinds, caption: str, name: str) -> Figure:
    linears = _whole(pair, layer, kinds)

    def draw(axes: Any) -> None:
        for row, site in zip(axes, linears, strict=True):
            for ax, (quantity, letter, unit) in zip(row, kinds, strict=True):
                _lines(ax, pair, f"{site}.{quantity}")
                label(ax, "step", f"‖{letter}‖ ({unit})", log="y")
                ax.set_title(short(site))

    return figure(name, caption, f"{caption} {_told(pair, linears, kinds)}", draw, len(linears), len(kinds), 1.6)


def _lines(ax: Any, pair: Pair, name: str) -> None:
    for index, (text, trial) in enumerate(pair.both):
        if found := course(trial, name):
            ax.plot(found.steps, found.values, **look(index, marked=False), label=text)


def _told(pair: Pair, linears: list[str], kinds: Kinds) -> str:
    ratios = (
        (short(site), letter, _ratio(pair, f"{site}.{quantity}")) for site in linears for quantity, letter, _ in kinds
    )
    words = "; ".join(f"{letter} of {site} {number(value)}" for site, letter, value in ratios)
    return f"Diverging over converging at the last step of both: {words}."


def _growth(pair: Pair, found: list[int]) -> Table:
    kinds = (*FORWARD, *BACKWARD)
    rows = []
    for layer in found:
        for site in sites(pair.steady, layer, ".y.l2"):
            ratios = [_ratio(pair, f"{site}.{quantity}") for quantity, _, _ in kinds]
            rows.append((site, *(_marked(value) for value in ratios)))
    return Table(
        "L2 norm in the diverging run over that in the converging one, at the last step that both recorded; "
        f"* where it is more than {GREW:g} times as high.",
        ("linear", *(letter for _, letter, _ in kinds)),
        tuple(rows),
    )


def _ratio(pair: Pair, name: str) -> float | None:
    both = [found for trial in (pair.lost, pair.steady) if (found := course(trial, name))]
    if len(both) < 2:
        return None
    step = common_step(both)
    lost, steady = (found.at(step) for found in both)
    return float(np.divide(lost, steady)) if steady else None


def _marked(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{number(value)}{'*' * (value > GREW)}"

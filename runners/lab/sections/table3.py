"""Table 3 of 2410.16682: which block trains at which learning rate, and how much higher each may go."""

from typing import Any

from runners.lab.ceiling import Highest, highest, ratio
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label
from runners.lab.section import Section, Table
from runners.lab.words import NONE, bound, count, rate, sign

TITLE = "Highest stable learning rate (Table 3)"
MARGINS = (0.25, 0.5, 1.0)  # nats, at which the verdict is taken again to see how much it hangs on them
SIGNS = "✓ all seeds converged, ✗ all diverged, 2/3 two of three converged, · not run"
HOW = (
    "The highest stable rate of a seed is the highest up to which all converged. Over seeds: the geometric mean with "
    "the 95 % t interval of the logarithms, which cannot see within a step of the grid; the ceiling of every seed lies "
    "between the two rates of the column beside it. Ratios are paired by seed."
)


def section(lab: Lab) -> Section:
    """Verdicts, ceilings and ratios for each size of the study."""
    if len(lab.rates) < 2 or not lab.of():
        return Section(TITLE, missing="runs that are over, at two learning rates or more")
    sizes = [size for size in lab.sizes if lab.of(size=size)]
    tables = [_verdicts(lab, size) for size in sizes] + [_ceilings(lab, size) for size in sizes]
    others = [_margins(lab, sizes[-1])] if lab.study.rule["val_above"] is None else []
    text = (lab.rule, HOW, *_told(lab, sizes))
    return Section(TITLE, text, (*tables, *others), (_figure(lab, sizes[-1]),))


def _verdicts(lab: Lab, size: str) -> Table:
    rows = [(arm, *(_verdict(lab, arm, size, lr) for lr in lab.rates)) for arm in lab.arms]
    return Table(
        f"Converged or diverged, {_model(lab, size)}, {_seeds(lab)}. {lab.rule} {SIGNS}.",
        ("learning rate", *(f"{lr:g}" for lr in lab.rates)),
        tuple(rows),
    )


def _verdict(lab: Lab, arm: str, size: str, lr: float) -> str:
    found = [lab.converged(trial) for trial in lab.of(arm, size, lr)]
    if not found:
        return NONE
    return "✓" if all(found) else "✗" if not any(found) else f"{sum(found)}/{len(found)}"


def _ceilings(lab: Lab, size: str) -> Table:
    rows = [_ceiling(lab, arm, size) for arm in lab.arms if lab.of(arm, size)]
    return Table(
        f"Highest stable learning rate, {_model(lab, size)}, with 95 % intervals over seeds.",
        ("block", "highest stable LR", "every seed's ceiling lies in", f"ratio to {lab.reference}", "seeds"),
        tuple(rows),
    )


def _ceiling(lab: Lab, arm: str, size: str) -> tuple[str, ...]:
    own, other = lab.ceilings(arm, size), lab.ceilings(lab.reference, size)
    found = highest(own.values())
    low = "below the grid" if found.low is None else f"{found.low:g}"
    high = "above the grid" if found.high is None else f"{found.high:g}"
    times = NONE
    if shared := own.keys() & other.keys():
        one, two = (highest(ceilings[seed] for seed in shared) for ceilings in (own, other))
        times = rate(ratio(own, other), sign(one.at_least or two.below, one.below or two.at_least))
    return arm, rate(found.mean, bound(found)), f"{low} to {high}", times, str(len(own))


def _margins(lab: Lab, size: str) -> Table:
    rows = []
    for arm in lab.arms:
        if lab.of(arm, size):
            found = [highest(lab.ceilings(arm, size, margin).values()) for margin in MARGINS]
            rows.append((arm, *(f"{bound(each)}{each.mean.mean:.3g}" for each in found)))
    headings = ("block", *(f"{margin:g} nats" for margin in MARGINS))
    return Table(
        f"Does it hang on the rule? Highest stable learning rate, {_model(lab, size)}, where the final validation loss "
        "may lie so far above the lowest at a lower learning rate.",
        headings, tuple(rows),
    )  # fmt: skip


def _told(lab: Lab, sizes: list[str]) -> list[str]:
    """Blocks that converged again above a rate at which they diverged."""
    told = []
    for size in sizes:
        for arm in lab.arms:
            for seed, found in lab.ceilings(arm, size).items():
                if found.beyond:
                    rates = ", ".join(f"{lr:g}" for lr in found.beyond)
                    told.append(
                        f"Not monotone: {arm}, seed {seed}, diverged at {found.diverged:g} and converged again at "
                        f"{rates}."
                    )
    return told


def _figure(lab: Lab, size: str) -> Figure:
    arms = [arm for arm in lab.arms if lab.of(arm, size)]
    found = {arm: highest(lab.ceilings(arm, size).values()) for arm in arms}

    def draw(axes: Any) -> None:
        (ax,) = axes.flat
        for place, arm in enumerate(reversed(arms)):
            _bar(ax, place, found[arm], lab.rates)
        ax.set_yticks(range(len(arms)), reversed(arms))
        label(ax, "highest stable peak learning rate (1)", "block", log="x")
        ax.set_xticks(lab.rates, [f"{lr:g}" for lr in lab.rates])
        ax.minorticks_off()

    words = "; ".join(f"{arm} {rate(each.mean, bound(each))}" for arm, each in found.items())
    caption = (
        f"Highest stable learning rate, {_model(lab, size)}. Mark: geometric mean over seeds; line: from the lowest "
        "stable to the next rate tried, over all seeds; arrow: the grid ends there."
    )
    return figure(
        "ceilings", caption, f"Highest stable learning rate of each block: {words}.", draw,
        height=1.1 + 0.28 * len(arms),
    )  # fmt: skip


def _bar(ax: Any, place: int, found: Highest, rates: list[float]) -> None:
    low = rates[0] if found.low is None else found.low
    high = rates[-1] if found.high is None else found.high
    ax.plot((low, high), (place, place), "-", color="#0072B2", linewidth=2)
    ax.plot((found.mean.mean,), (place,), "o", color="#D55E00", markersize=6)
    if found.high is None:
        ax.plot((high,), (place,), ">", color="#0072B2", markersize=9, zorder=1)
    if found.low is None:
        ax.plot((low,), (place,), "<", color="#0072B2", markersize=9, zorder=1)


def _model(lab: Lab, size: str) -> str:
    named = "" if len(lab.sizes) == 1 else f"{size}, "
    return f"{named}{count(lab.parameters(size))} parameters in the layers"


def _seeds(lab: Lab) -> str:
    return f"{len(lab.seeds)} seed{'s' * (len(lab.seeds) != 1)}"

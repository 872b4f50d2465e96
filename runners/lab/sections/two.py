"""Two instabilities at once: attention logits that grow and output logits that drift, each cured alone, and both."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from runners.lab.intervals import Estimate, estimate, geometric
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import course, largest
from runners.lab.section import Section, Table
from runners.lab.trials import BLOCK, LR, SEED, Trial, distinct
from runners.lab.words import NONE, interval, number, rate

TITLE = "Two instabilities at once"
CURES = ("optim.z_loss", "optim.weight_decay")  # of the drift of output logits: 0 is without
DRIFT = "logits.log_z"
HOW = (
    "One axis cures the growth of attention logits (the block), another the drift of output logits (z-loss or decay, "
    "where 0 is without). At each learning rate: the final validation loss with neither, what each cure alone changes "
    "in it, what both change, and how much that lies beyond the sum. Below 0 the loss is lower: the cure helps. Beyond "
    "the sum, 0 says that the two instabilities add up, a negative number that each cure works better where the other "
    "is there too, a positive one that one does the work of both. Means over seeds, paired by seed, with 95 % t "
    "intervals. A loss above the initial one, or of a run that ended early, enters as the initial one."
)
Losses = dict[int, float]  # by seed
Read = Callable[[Lab, str, str, float], float | None]  # of all runs of an arm, at a size and a learning rate


@dataclass(frozen=True)
class Square:
    """Four arms: with neither cure, with that of attention, with that of the outputs, with both; `held` is shared."""

    cure: str
    block: tuple[str, str]
    value: float
    held: str
    arms: tuple[str, str, str, str]


def section(lab: Lab) -> Section:
    """The table of losses, what ends where, and a figure of both instabilities."""
    size = lab.sizes[-1]
    found = [square for axis in CURES for square in squares(lab, axis, size)]
    if not found:
        return Section(TITLE, missing="two blocks crossed with z-loss or decay, 0 among its values")
    tables = [_losses(lab, size, found), _ends(lab, size, found)]
    return Section(TITLE, (HOW,), tuple(tables), (_figure(lab, size, found),))


def squares(lab: Lab, axis: str, size: str) -> list[Square]:
    """Every two values of the block crossed with without and with a cure, all else equal."""
    blocks, values = (lab.study.axes.get(name, []) for name in (BLOCK, axis))
    if len(blocks) < 2 or 0 not in values:
        return []
    by = {_key(trial, axis): trial.arm for trial in lab.of(size=size)}
    held = distinct(key[2] for key in by)
    return [
        Square(axis, (str(blocks[0]), str(block)), value, words, (arms[0], arms[1], arms[2], arms[3]))
        for block in blocks[1:] for value in values if value for words in held
        if all(arms := [by.get((b, v, words), "") for v in (0, value) for b in (blocks[0], block)])
    ]  # fmt: skip


def _key(trial: Trial, axis: str) -> tuple[Any, Any, str]:
    settings = trial.cell.settings
    rest = {name: value for name, value in settings.items() if name not in (BLOCK, axis, LR, SEED)}
    words = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in rest.items() if name in CURES)
    return settings.get(BLOCK), settings.get(axis), words


def effects(four: list[Losses]) -> tuple[Estimate, Estimate, Estimate, Estimate, Estimate] | None:
    """Loss with neither, what each cure alone changes, what both do, and that beyond the sum; over the seeds of all."""
    seeds = sorted(set.intersection(*(set(each) for each in four)))
    if not seeds:
        return None
    none, one, other, both = ([each[seed] for seed in seeds] for each in four)

    def of(change: Callable[[int], float]) -> Estimate:
        return estimate(change(place) for place in range(len(seeds)))

    return (
        estimate(none),
        of(lambda i: one[i] - none[i]),
        of(lambda i: other[i] - none[i]),
        of(lambda i: both[i] - none[i]),
        of(lambda i: both[i] - one[i] - other[i] + none[i]),
    )


def _losses(lab: Lab, size: str, found: list[Square]) -> Table:
    rows = []
    for square in found:
        for lr in lab.rates:
            seen = effects([lab.capped(arm, size, lr) for arm in square.arms])
            if seen:
                cure = f"{square.cure.rpartition('.')[2]} {square.value:g}"
                rows.append((
                    f"{square.block[1]} and {cure}", square.held or NONE, f"{lr:g}", interval(seen[0], 3),
                    *(interval(each, 3, "+") for each in seen[1:]), str(seen[0].count),
                ))  # fmt: skip
    headings = (
        "cures", "held", "LR", "loss with neither (nats)", "attention's alone", "outputs' alone", "both",
        "both beyond the sum", "seeds",
    )  # fmt: skip
    return Table("What each cure changes in the final validation loss, in nats.", headings, tuple(rows))


def _ends(lab: Lab, size: str, found: list[Square]) -> Table:
    rows = []
    for arm in distinct(arm for square in found for arm in square.arms):
        for lr in lab.rates:
            if trials := lab.of(arm, size, lr):
                lost = f"{sum(not lab.converged(trial) for trial in trials)} of {len(trials)}"
                logits = [value for trial in trials if (value := largest(trial))]
                drift = [seen.last for trial in trials if (seen := course(trial, DRIFT)) and math.isfinite(seen.last)]
                told = rate(geometric(logits)) if logits else NONE
                rows.append((arm, f"{lr:g}", lost, told, interval(estimate(drift)) if drift else NONE))
    headings = ("arm", "LR", "diverged", "largest attention logit (1)", "log Z (nats)")
    return Table("Both instabilities at the end of the run, with 95 % intervals over seeds.", headings, tuple(rows))


def _figure(lab: Lab, size: str, found: list[Square]) -> Figure:
    """Loss, and what was recorded of largest logit and log Z, against the learning rate for the first square's arms."""
    arms = found[0].arms
    panels = [(words, log, lines) for words, log, read in PANELS if (lines := _lines(lab, size, arms, read))]

    def draw(axes: Any) -> None:
        for ax, (words, log, lines) in zip(axes.flat, panels, strict=True):
            for index, (arm, line) in enumerate(lines.items()):
                ax.plot(list(line), list(line.values()), **look(index), label=arm)
            label(ax, "peak learning rate (1)", words, log)

    caption = "At the end of the run, means over seeds, with neither cure, each alone, and both."
    words = "; ".join(
        f"{arm}: " + ", ".join(f"{lr:g} gives {number(loss, 4)}" for lr, loss in lab.curve(arm, size).items())
        for arm in arms
    )
    return figure("two", caption, f"{caption} Losses: {words}.", draw, 1, len(panels), 2.6)


def _lines(lab: Lab, size: str, arms: Iterable[str], read: Read) -> dict[str, dict[float, float]]:
    """By arm and learning rate: what was read of all seeds; nothing where no run has it."""
    found = {arm: {lr: each for lr in lab.rates if (each := read(lab, arm, size, lr)) is not None} for arm in arms}
    return found if any(found.values()) else {}


def _loss(lab: Lab, arm: str, size: str, lr: float) -> float | None:
    found = lab.capped(arm, size, lr)
    return estimate(found.values()).mean if found else None


def _sharpness(lab: Lab, arm: str, size: str, lr: float) -> float | None:
    found = [value for trial in lab.of(arm, size, lr) if (value := largest(trial))]
    return geometric(found).mean if found else None


def _drift(lab: Lab, arm: str, size: str, lr: float) -> float | None:
    found = [
        seen.last for trial in lab.of(arm, size, lr) if (seen := course(trial, DRIFT)) and math.isfinite(seen.last)
    ]
    return estimate(found).mean if found else None


PANELS: tuple[tuple[str, str, Read], ...] = (
    ("final validation loss\n(nats per token)", "x", _loss),
    ("largest attention logit (1)", "xy", _sharpness),
    ("log Z (nats)", "x", _drift),
)

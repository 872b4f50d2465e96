"""Growth of an activation, cause or symptom of divergence: blocks that hold one linear's output (2410.16682)."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from runners.lab.critical import Ratio, crossings, ratio, told
from runners.lab.intervals import Estimate, geometric, paired
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.probed import course, largest, layers, short, sites
from runners.lab.section import Section, Table
from runners.lab.trials import BLOCK, LR, SEED, Trial, distinct
from runners.lab.words import NONE, interval, number, rate

TITLE = "Cause or symptom"
HOLD, NORM = "hold_norm", ".y.l2"
SEVERAL = 3  # norms that a block has more than its reference, from which on it counts as held too
HOW = (
    "Each ablation holds the output of one linear at a set RMS, or has a norm behind every linear, and is compared "
    "with the block without that, everything else equal. The growth that is held was a cause of divergence where both "
    "the critical rate is higher and the loss is lower at the lowest rate at which most runs of the other diverged, "
    "each with its whole 95 % interval; a symptom where neither is; and open otherwise. The critical rate is where the "
    "final validation loss lies the margin of the rule above the lowest at a lower rate, read between the rates of the "
    "grid; it is blind to the level of the loss, which stands beside it. Ratios and differences are paired by seed. "
    "Holding a norm also makes the weight before it free of scale, as every norm does, so it changes more than growth."
)


Line = dict[float, float]  # a value at each learning rate


@dataclass(frozen=True)
class Case:
    """An arm that holds something, the arm without that, and the lowest rate at which most of the latter diverged."""

    arm: str
    other: str
    holds: str
    lost: float | None


def section(lab: Lab) -> Section:
    """Stable rates, losses and norms of every ablation beside the block that it changes."""
    size = lab.sizes[-1]
    cases = cases_of(lab, size)
    if not cases or len(lab.rates) < 2:
        return Section(TITLE, missing="a block that holds a linear's output, and the block without that")
    tables = [_rates(lab, size, cases), *_norms(lab, size, cases)]
    return Section(TITLE, (HOW, *_verdicts(lab, size, cases)), tuple(tables), (_figure(lab, size, cases),))


def cases_of(lab: Lab, size: str) -> list[Case]:
    """The arms that hold an output and share every other setting with an arm that holds none."""
    first = {arm: trials[0] for arm in lab.arms if (trials := lab.of(arm, size))}
    free = [(arm, trial) for arm, trial in first.items() if not held(trial)]
    cases = []
    for arm, trial in first.items():
        same = [other for other, it in free if _others(it) == _others(trial) and _norms_of(it) < _norms_of(trial)]
        same = [other for other in same if held(trial) or _norms_of(trial) - _norms_of(first[other]) >= SEVERAL]
        if same:
            cases.append(Case(arm, same[0], held(trial) or "all", _lost(lab, same[0], size)))
    return cases if any(held(first[case.arm]) for case in cases) else []


def held(trial: Trial) -> str:
    """The nodes whose outputs a trial's block holds."""
    nodes = (node for block in _blocks(trial) for node in block.nodes.values() if node.op.name == HOLD)
    return ", ".join(distinct(str(ref) for node in nodes for ref in node.inputs.values()))


def _blocks(trial: Trial) -> list[Any]:
    return [block for node in trial.graph.nodes.values() for block in node.blocks]


def _norms_of(trial: Trial) -> int:
    """How many nodes of a trial's blocks are drawn as norms."""
    return sum(node.op.style.role == "norm" for block in _blocks(trial) for node in block.nodes.values())


def _others(trial: Trial) -> dict[str, Any]:
    return {axis: value for axis, value in trial.cell.settings.items() if axis not in (BLOCK, LR, SEED)}


def _lost(lab: Lab, arm: str, size: str) -> float | None:
    """The lowest rate at which at least half of an arm's runs diverged."""
    for lr in lab.rates:
        found = [lab.converged(trial) for trial in lab.of(arm, size, lr)]
        if found and sum(found) * 2 <= len(found):
            return lr
    return None


def _verdicts(lab: Lab, size: str, cases: list[Case]) -> list[str]:
    """In words, for each arm: cause, symptom, or open."""
    told = []
    for case in cases:
        times, there = _times(lab, size, case), _less(lab, size, case, case.lost, case.lost)
        if times is not None and there is not None and case.lost is not None:
            lower = there.high is not None and there.high < 0
            word = "a cause" if times.higher and lower else "open" if times.higher or lower else "a symptom"
            told.append(
                f"{case.arm}, beside {case.other}: {word}. Critical rate {times} times; loss at {case.lost:g} "
                f"{interval(there, 3, '+')} nats."
            )
    return told


def _times(lab: Lab, size: str, case: Case) -> Ratio | None:
    own, other = (crossings(lab, arm, size, lab.allowed) for arm in (case.arm, case.other))
    return ratio(own, other) if own.keys() & other.keys() else None


def _less(lab: Lab, size: str, case: Case, own: float | None, other: float | None) -> Estimate | None:
    """The loss of an arm at a rate less that of the other at its own; a run that diverged early has its initial one."""
    if own is None or other is None:
        return None
    one, two = (lab.capped(arm, size, lr) for arm, lr in ((case.arm, own), (case.other, other)))
    return paired(one, two) if one.keys() & two.keys() else None


def _rates(lab: Lab, size: str, cases: list[Case]) -> Table:
    rows = []
    for arm in distinct(name for case in cases for name in (case.other, case.arm)):
        case = next((case for case in cases if case.arm == arm), None)
        best = lab.best(arm, size)
        loss = number(lab.curve(arm, size)[best], 4) if best is not None else "diverged"
        critical = told(crossings(lab, arm, size, lab.allowed))
        rows.append((arm, case.holds if case else NONE, critical, *_against(lab, size, case), number(best), loss))
    headings = (
        "arm", "holds", "critical LR", "ratio to the other's", "LR where the other diverged",
        "loss there less the other's (nats)", "best loss less the other's (nats)", "best LR", "best loss (nats)",
    )  # fmt: skip
    return Table(f"Critical learning rates, {lab.allowed:g} nats above the lowest, and losses.", headings, tuple(rows))


def _against(lab: Lab, size: str, case: Case | None) -> tuple[str, str, str, str]:
    """What an arm gains over the one it is compared with."""
    if case is None:
        return (NONE,) * 4
    times, there = _times(lab, size, case), _less(lab, size, case, case.lost, case.lost)
    best = _less(lab, size, case, lab.best(case.arm, size), lab.best(case.other, size))
    nats = [interval(each, 3, "+") if each else NONE for each in (there, best)]
    return str(times or NONE), f"{case.lost:g}" if case.lost is not None else NONE, nats[0], nats[1]


def _norms(lab: Lab, size: str, cases: list[Case]) -> list[Table]:
    """How far the outputs of all linears grew at the rate at which the other arm diverged."""
    lost = {case.other: case.lost for case in cases if case.lost is not None}
    rows, linears = [], list[str]()
    for arm in distinct(name for case in cases for name in (case.other, case.arm)):
        other = next((case.other for case in cases if case.arm == arm), arm)
        calm = norms_of(lab, other, size, lab.rates[0])
        if other in lost and calm and (grown := norms_of(lab, arm, size, lost[other])):
            linears = linears or list(calm)
            cells = [_grew(grown.get(name, {}), calm.get(name, {})) for name in linears]
            rows.append((arm, f"{lost[other]:g}", *cells, _told(_logits(lab, arm, size, lost[other]))))
    if not rows:
        return []
    headings = ("arm", "LR", *(f"Y of {name}" for name in linears), "largest logit (1)")
    caption = (
        f"L2 norm of each linear's output at the end, over that of the block without a hold at LR {lab.rates[0]:g}: "
        "geometric mean over layers, and over seeds with its interval; the largest attention logit of any layer."
    )
    return [Table(caption, headings, tuple(rows))]


def norms_of(lab: Lab, arm: str, size: str, lr: float) -> dict[str, dict[int, float]]:
    """By linear and seed: geometric mean over the layers of the norm of its output at the last recorded step."""
    found: dict[str, dict[int, float]] = {}
    for trial in lab.of(arm, size, lr):
        values: dict[str, list[float]] = {}
        for layer in layers(trial, NORM):
            for site in sites(trial, layer, NORM):
                if (seen := course(trial, f"{site}{NORM}")) and seen.last > 0 and math.isfinite(seen.last):
                    values.setdefault(short(site), []).append(seen.last)
        for name, each in values.items():
            found.setdefault(name, {})[trial.seed] = geometric(each).mean
    return found


def _grew(one: dict[int, float], calm: dict[int, float]) -> str:
    seeds = sorted(one.keys() & calm.keys())
    return rate(geometric(one[seed] / calm[seed] for seed in seeds)) if seeds else NONE


def _told(values: list[float]) -> str:
    return rate(geometric(values)) if values else NONE


def _logits(lab: Lab, arm: str, size: str, lr: float) -> list[float]:
    return [value for trial in lab.of(arm, size, lr) if (value := largest(trial))]


def _figure(lab: Lab, size: str, cases: list[Case]) -> Figure:
    """Loss, largest logit and the norm of every linear's output against the learning rate, a line for each arm."""
    plain = [case for case in cases if len(_others(lab.of(case.arm, size)[0])) == _fewest(lab, size, cases)]
    arms = distinct(name for case in plain for name in (case.other, case.arm))
    panels = _panels(lab, size, arms)

    def draw(axes: Any) -> None:
        for ax, (title, words, lines) in zip(axes.flat, panels, strict=False):
            for index, line in enumerate(lines):
                ax.plot(list(line), list(line.values()), **look(index), label=arms[index])
            label(ax, "peak learning rate (1)", words, "xy" if title else "x")
            ax.set_title(title)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)

    caption = "Final loss (median), largest attention logit and norm of every linear's output (means) at the end."
    words = "; ".join(
        f"{arm}: " + ", ".join(f"{lr:g} gives {number(loss, 4)}" for lr, loss in lab.curve(arm, size).items())
        for arm in arms
    )
    return figure("cause", caption, f"{caption} Losses: {words}.", draw, -(-len(panels) // 2), 2, 2.1)


def _panels(lab: Lab, size: str, arms: list[str]) -> list[tuple[str, str, list[Line]]]:
    """Title, words of the axis, and a line for each arm; only what was recorded."""
    finite = [{lr: loss for lr, loss in lab.curve(arm, size).items() if math.isfinite(loss)} for arm in arms]
    logits = [_line({lr: _logits(lab, arm, size, lr) for lr in lab.rates}) for arm in arms]
    panels = [("", "final validation loss\n(nats per token)", finite)]
    panels += [("largest logit of any layer", "logit (1)", logits)] if any(logits) else []
    norms = {(arm, lr): norms_of(lab, arm, size, lr) for arm in arms for lr in lab.rates}
    for name in distinct(name for found in norms.values() for name in found):
        lines = [_line({lr: norms[arm, lr].get(name, {}).values() for lr in lab.rates}) for arm in arms]
        panels.append((name, "‖Y‖ (1)", lines))
    return panels


def _line(found: Mapping[float, Collection[float]]) -> Line:
    """Geometric means over seeds, at the learning rates that have any."""
    return {lr: geometric(values).mean for lr, values in found.items() if values}


def _fewest(lab: Lab, size: str, cases: list[Case]) -> int:
    return min(len(_others(lab.of(case.arm, size)[0])) for case in cases)

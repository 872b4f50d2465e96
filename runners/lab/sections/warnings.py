"""Which probe warns before the loss does, how many steps ahead, and how often for nothing."""

import math
from statistics import NormalDist, median
from typing import Any

from runners.lab.alarms import ALARMS, SHARE, Alarm, reference, turn
from runners.lab.intervals import LEVEL
from runners.lab.lab import Lab
from runners.lab.plots import Figure, figure, label, look
from runners.lab.section import Section, Table
from runners.lab.trials import Trial
from runners.lab.words import NONE

TITLE = "Early warnings"
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard deviations to either side
LEAST = 1e-3  # of a threshold, below which the figure is cut off
HOW = (
    "Thresholds are the same for all studies. A loss has turned at the first logged "
    f"step from which on it stays {SHARE:g} of the margin above that of the best run at a lower rate, everything else "
    "equal, at the same step; it is smoothed by a median of five. The lead is the step at which the loss turned less "
    "the first recorded step at which the probe was beyond its threshold: negative where the probe came later. A false "
    "alarm is one in a run that converged. Shares come with Wilson's 95 % intervals, which take runs as independent."
)


def section(lab: Lab) -> Section:
    """Each warning's leads over all runs that diverged, its false alarms over all others, and a pair of runs."""
    runs = [trial for trial in lab.of() if trial.series is not None]
    lost = {trial.cell.name: step for trial in runs if not lab.converged(trial) and (step := turn(lab, trial))}
    steady = [trial for trial in runs if lab.converged(trial)]
    diverged = [trial for trial in runs if trial.cell.name in lost]
    if not diverged or not steady:
        return Section(TITLE, missing="probes in runs that converged and in runs that diverged")
    rows = [_row(alarm, diverged, lost, steady) for alarm in ALARMS]
    headings = ("warning", "runs that diverged: warned", "ahead of the loss", "lead: median [least, most] (steps)",
                "runs that converged: false alarms")  # fmt: skip
    table = Table("Warnings over all sizes, blocks, rates and seeds.", headings, tuple(row for row in rows if row))
    without = sum(not lab.converged(trial) for trial in runs) - len(diverged)
    text = f"{len(diverged)} runs diverged and {len(steady)} converged. Their losses turned at {_span(lost.values())}."
    if without:
        text += f" {without} more runs diverged without a turn, or without a lower rate to compare with."
    return Section(TITLE, (HOW, f"{text} {_apart(runs)}"), (table,), (_figure(lab, diverged, lost),))


def share(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share. Raises `ValueError` for none of nothing."""
    if not total:
        raise ValueError("a share of nothing has no interval")
    p, z = count / total, Z**2 / total
    half = Z * math.sqrt(p * (1 - p) / total + z / (4 * total))
    low, high = (p + z / 2 - half) / (1 + z), (p + z / 2 + half) / (1 + z)
    return (low if count else 0.0), (high if count < total else 1.0)


def _row(alarm: Alarm, diverged: list[Trial], lost: dict[str, int], steady: list[Trial]) -> tuple[str, ...]:
    seen = [trial for trial in diverged if alarm.course(trial)]
    calm = [trial for trial in steady if alarm.course(trial)]
    if not seen or not calm:
        return ()
    leads = [lost[trial.cell.name] - step for trial in seen if (step := alarm.first(trial)) is not None]
    false = sum(alarm.first(trial) is not None for trial in calm)
    told = f"{median(leads):g} [{min(leads)}, {max(leads)}]" if leads else NONE
    ahead = sum(lead > 0 for lead in leads)
    return alarm.words, _of(len(leads), len(seen)), _of(ahead, len(seen)), told, _of(false, len(calm))


def _of(count: int, total: int) -> str:
    low, high = share(count, total)
    return f"{count} of {total} [{low:.0%}, {high:.0%}]"


def _span(steps: Any) -> str:
    found = sorted(steps)
    return f"steps {found[0]} to {found[-1]}, half of them by {median(found):g}"


def _apart(runs: list[Trial]) -> str:
    """How finely a lead is known."""
    probes = sorted({trial.config.log.probe for trial in runs})
    logged = sorted({trial.config.log.every for trial in runs})
    every, each = (", ".join(map(str, found)) for found in (probes, logged))
    return f"Probes were recorded every {every} steps and losses every {each}: no lead is known closer."


def _figure(lab: Lab, diverged: list[Trial], lost: dict[str, int]) -> Figure:
    """All warnings over their thresholds, in the run whose loss turned last and in the one it is compared with."""
    shown = max(diverged, key=lambda trial: (lost[trial.cell.name], trial.config.train.steps))
    both = [("diverged", shown), ("converged", reference(lab, shown) or shown)]
    alarms = [alarm for alarm in ALARMS if alarm.course(shown)]

    def draw(axes: Any) -> None:
        for ax, (words, trial) in zip(axes.flat, both, strict=True):
            for index, alarm in enumerate(alarms):
                if found := alarm.course(trial):
                    every = max(1, len(found.steps) // 6)
                    ax.plot(found.steps, found.values, **look(index), markevery=every, label=alarm.words)
            ax.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
            if words == "diverged":
                ax.axvline(lost[trial.cell.name], color="#000000", linewidth=1)
            label(ax, "step", "probe over its threshold (1)", log="y")
            ax.set_ylim(bottom=LEAST)
            ax.set_title(f"{trial.arm}, LR {trial.lr:g}: {words}")

    caption = (
        "Every probe over its threshold: above the dotted line it warns. Left a run that diverged, whose loss turned "
        "at the upright line; right the run that it is compared with."
    )
    words = "; ".join(f"{alarm.words} at step {alarm.first(shown) or 'none'}" for alarm in alarms)
    about = f"{caption} {shown.arm}, LR {shown.lr:g}, loss turned at {lost[shown.cell.name]}; first warnings: {words}."
    return figure("warnings", caption, about, draw, 1, 2, 3.0, share=True)

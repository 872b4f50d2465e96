"""Table 4 of 2410.16682: perplexity at one learning rate for all, and at each block's best."""

import math

from runners.lab.intervals import paired, perplexity
from runners.lab.lab import Lab
from runners.lab.section import Section, Table
from runners.lab.words import NONE, fixed, interval

TITLE = "Perplexity (Table 4)"
HOW = (
    "exp of the mean validation loss over seeds, with the 95 % t interval of the loss on that scale. A shared learning "
    "rate can favour one block, so each also stands at its own best, which is chosen by the same losses and is "
    "flattered by that. Differences are means of validation losses paired by seed, with 95 % t intervals: what a seed "
    "shares cancels."
)


def section(lab: Lab) -> Section:
    """Both tables for each size."""
    tables = []
    for size in lab.sizes:
        common = _common(lab, size)
        if common is not None:
            tables.append(_table(lab, size, dict.fromkeys(lab.arms, common), f"at the common learning rate {common:g}"))
        tables.append(_table(lab, size, {arm: lab.best(arm, size) for arm in lab.arms}, "each at its own best rate"))
    tables = [table for table in tables if table.rows]
    if not tables:
        return Section(TITLE, missing="runs that are finished")
    return Section(TITLE, (HOW,), tuple(tables))


def _common(lab: Lab, size: str) -> float | None:
    """The rate with the lowest mean loss over all arms, of those at which all runs of all of them converged."""
    means = {}
    for lr in lab.rates:
        found = [lab.of(arm, size, lr) for arm in lab.arms if lab.of(arm, size)]
        if found and all(found) and all(lab.converged(trial) for trials in found for trial in trials):
            losses = [trial.loss for trials in found for trial in trials]
            means[lr] = math.fsum(loss for loss in losses if loss is not None) / len(losses)
    return min(means, key=means.__getitem__) if means else None


def _table(lab: Lab, size: str, rates: dict[str, float | None], where: str) -> Table:
    rows = [_row(lab, arm, size, lr, rates[lab.reference]) for arm, lr in rates.items() if lr is not None]
    named = "" if len(lab.sizes) == 1 else f"{size}, "
    return Table(
        f"Validation perplexity, {named}{where}.",
        ("block", "LR", "perplexity", "loss (nats)", f"loss minus {lab.reference}'s (nats)", "seeds"),
        tuple(row for row in rows if row),
    )


def _row(lab: Lab, arm: str, size: str, lr: float, other: float | None) -> tuple[str, ...]:
    losses = lab.losses(arm, size, lr)
    finite = {seed: loss for seed, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return ()
    lost = f" ({len(losses) - len(finite)} diverged)" if len(finite) < len(losses) else ""
    against = lab.losses(lab.reference, size, other) if other is not None else {}
    against = {seed: loss for seed, loss in against.items() if math.isfinite(loss)}
    difference = NONE
    if arm != lab.reference and finite.keys() & against.keys():
        difference = interval(paired(finite, against), 3, "+")
    loss = fixed(math.fsum(finite.values()) / len(finite))
    return arm, f"{lr:g}", interval(perplexity(finite.values())), loss, difference, f"{len(finite)}{lost}"

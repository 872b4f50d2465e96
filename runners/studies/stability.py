"""Which cells of a study are stable, and between which learning rates their instability begins."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runners.studies.axes import LR, SEED
from runners.study import Cell, Study


@dataclass(frozen=True)
class Verdict:
    """Whether a cell that has ended is stable; the reason where it is not."""

    stable: bool
    reason: str = ""


@dataclass(frozen=True)
class Edge:
    """Where stability ends for one set of `settings` without a learning rate.

    `stable` is the highest stable rate below every diverged one, `diverged` the lowest diverged one; None where there
    is none. `beyond` are stable rates above that: the outcomes are not monotone.
    """

    settings: dict[str, Any]
    stable: float | None
    diverged: float | None
    beyond: tuple[float, ...] = ()

    def within(self, factor: float) -> bool:
        """Whether the two rates are as near each other as is asked for."""
        return bool(self.stable and self.diverged) and self._ratio <= factor

    @property
    def _ratio(self) -> float:
        assert self.stable is not None
        assert self.diverged is not None
        return self.diverged / self.stable


@dataclass(frozen=True)
class Range:
    """The edges of settings that differ in the seed alone."""

    settings: dict[str, Any]
    edges: list[Edge]

    @property
    def stable(self) -> list[float]:
        """The highest stable rate of each seed that has one, lowest first."""
        return sorted(edge.stable for edge in self.edges if edge.stable is not None)

    @property
    def middle(self) -> float:
        """The geometric mean of the highest stable rates; NaN where no seed has one."""
        logs = [math.log(rate) for rate in self.stable]
        return math.exp(sum(logs) / len(logs)) if logs else math.nan


def verdicts(study: Study) -> dict[str, Verdict]:
    """A verdict for each cell that has ended, by its name."""
    found: dict[str, Verdict] = {}
    for cells in groups(study.cells).values():
        lowest = math.inf
        for cell in (cell for cell in cells if cell.ended):
            found[cell.name] = _verdict(cell, study.rule, lowest)
            lowest = min(lowest, cell.facts.get("val_loss", math.inf))
    return found


def groups(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells that differ in nothing but the learning rate, lowest rate first; those without one on an axis left out."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(json.dumps(others(cell.settings)), []).append(cell)
    return {key: sorted(group, key=rate) for key, group in found.items()}


def others(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the learning rate."""
    return {axis: label for axis, label in settings.items() if axis != LR}


def rate(cell: Cell) -> float:
    """The learning rate of a cell, where it is on an axis."""
    return float(cell.settings.get(LR, 0.0))


def edges(study: Study) -> list[Edge]:
    """Where stability ends, for each set of settings without a learning rate of which some cell has ended."""
    judged = verdicts(study)
    return [
        edge(others(cells[0].settings), {rate(cell): judged[cell.name].stable for cell in cells})
        for cells in groups(cell for cell in study.cells if LR in cell.settings and cell.ended).values()
    ]


def ranges(study: Study) -> list[Range]:
    """The edges of a study, those that differ in the seed alone together."""
    found: dict[str, Range] = {}
    for edge in edges(study):
        settings = {axis: label for axis, label in edge.settings.items() if axis != SEED}
        found.setdefault(json.dumps(settings), Range(settings, [])).edges.append(edge)
    return list(found.values())


def edge(settings: dict[str, Any], outcomes: dict[float, bool]) -> Edge:
    """Where stability ends among learning rates whose outcomes are known."""
    diverged = min((lr for lr, stable in outcomes.items() if not stable), default=None)
    below = [lr for lr, stable in outcomes.items() if stable and (diverged is None or lr < diverged)]
    beyond = sorted(lr for lr, stable in outcomes.items() if stable and diverged is not None and lr > diverged)
    return Edge(settings, max(below, default=None), diverged, tuple(beyond))


def _verdict(cell: Cell, rule: dict[str, Any], lowest: float) -> Verdict:
    if cell.state == "diverged":
        return Verdict(False, cell.facts["reason"])
    loss, above, margin = cell.facts["val_loss"], rule["val_above"], rule["val_margin"]
    if above is not None and loss > above:
        return Verdict(False, f"the last validation loss, {loss:.4f}, is above {above:g}")
    if margin is not None and loss > lowest + margin:
        told = f"{loss:.4f}, is more than {margin:g} above the lowest at a lower learning rate, {lowest:.4f}"
        return Verdict(False, f"the last validation loss, {told}")
    return Verdict(True)

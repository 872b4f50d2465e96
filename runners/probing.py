"""Probed steps: what modules, parameters and loss give, added up over micro-batches and processes, under names."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from blockgraph.kernels.base import local
from blockgraph.kernels.probes import moments
from blockgraph.model import Model
from blockgraph.probes import Reading
from runners import optim
from runners.loss import target_logits
from runners.world import World

RECORD = 4  # numbers of a record: sum, l2 norm, largest absolute value, count


class Probing:
    """The probes of a run's model, for one step at a time, from `start` to `finish`.

    There is a row for each record: sums, squares and counts add up over the micro-batches and the processes, and of
    the largest values the largest stays. A process takes its gradients of a loss that is times the number of
    processes; what is recorded of gradients is divided by it, so they are those of the mean loss of the whole batch.
    `cap` is that of logits which the loss makes itself.
    """

    def __init__(self, model: Model, world: World, cap: float | None = None):
        self.probes, self.world, self.cap, self.active = model.probes, world, cap, False
        self.parameters = dict(model.named_parameters())
        graphs = {reading.owner: model.probes.points[reading.graph] for reading in model.probes.series if reading.point}
        found = [(prefix, module, graphs[prefix]) for prefix, module in model.graphs() if prefix in graphs]
        self.modules: list[tuple[Any, int]] = [(module, len(points)) for _, module, points in found]
        points = {(prefix, key): point for prefix, _, points in found for key, point in points.items()}
        self.shares = self._tensor([1 / world.size if point.probe.gradient else 1.0 for point in points.values()])
        others = {_key(reading): None for reading in model.probes.series if not reading.point}
        # Rows of one source lie side by side.
        self.rows = {key: row for row, key in enumerate([*points, *sorted(others)])}

    def start(self) -> None:
        """Let the modules record from here on."""
        self.active = True
        self.totals = self._tensor([[0.0] * 3] * len(self.rows))
        self.largest = self._tensor([-math.inf] * len(self.rows))
        for module, count in self.modules:
            module.records = torch.full((count, RECORD), math.nan, device=self.world.device)

    def fold(self) -> None:
        """Take in what the modules recorded of a micro-batch, once its gradients are made."""
        if self.modules:
            self._take(0, torch.cat([module.records for module, _ in self.modules]), self.shares)

    def log_z(self, loss: Tensor, outputs: Any, targets: Tensor) -> None:
        """Take in a micro-batch's mean of log Z: its loss and the mean of its targets' logits."""
        row = self.rows.get(("loss", ""))
        if row is not None:
            target = target_logits(outputs, targets, self.cap).mean()
            found = torch.stack((loss.detach() + target, target * 0, target * 0 + 1))
            self.totals[row] += found * targets.numel()

    def weights(self) -> None:
        """Take in parameters and gradients, before the gradients are clipped."""
        self._take_each("weight", lambda parameter: parameter.detach())
        self._take_each("gradient", lambda parameter: parameter.grad)

    def updates(self, optimizer: torch.optim.Optimizer) -> None:
        """Take in the updates of a step that was taken."""
        self._take_each("update", lambda parameter: optim.update(optimizer, parameter))

    def finish(self) -> dict[str, float]:
        """Every series' value, on each process alike, if the step was probed; the next one is not."""
        if not self.active:
            return {}
        self.active = False
        for module, _ in self.modules:
            module.records = None
        totals, largest = self.world.sum(self.totals).tolist(), self.world.largest(self.largest).tolist()
        rows = ((reading, self.rows[_key(reading)]) for reading in self.probes.series)
        return {reading.name: self._value(reading, totals[row], largest[row]) for reading, row in rows}

    def _value(self, reading: Reading, totals: list[float], largest: float) -> float:
        """A statistic of all that one row has taken in."""
        total, squares, count = totals
        if not count > 0:
            return math.nan
        match reading.quantity.statistic:
            case "max":
                return largest
            case "mean":
                return total / count
            case "std":
                return math.sqrt(max(0.0, squares / count - (total / count) ** 2))
            case "rms":
                return math.sqrt(squares / count)
            case "l2":
                # A weight is seen by every process and micro-batch, but its norm is that of one.
                return math.sqrt(squares / count * (self._entries(reading) or count))

    def _entries(self, reading: Reading) -> int | None:
        """Size of what is seen more than once in a step."""
        return reading.point.probe.entries if reading.point else self.parameters[reading.owner].numel()

    def _take_each(self, source: str, of: Callable[[nn.Parameter], Tensor | None]) -> None:
        """Take in one tensor for each parameter that is asked for; of a sharded one the shard of this process."""
        rows = {owner: row for (kind, owner), row in self.rows.items() if kind == source}
        records = [_record(of(self.parameters[owner]), self.world.device) for owner in rows]
        if records:
            self._take(min(rows.values()), torch.stack(records), self._tensor(1.0))

    def _take(self, first: int, records: Tensor, shares: Tensor) -> None:
        """Add records to the rows from `first` on; with a share of their size, not of their count."""
        total, norm, largest, count = records.double().unbind(-1)
        rows = slice(first, first + len(records))
        self.totals[rows] += torch.stack((total * shares, (norm * shares).square(), count), dim=-1)
        self.largest[rows] = torch.maximum(self.largest[rows], largest * shares)

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.world.device)


def _key(reading: Reading) -> tuple[str, str]:
    """What a series has its row by."""
    return (reading.owner, reading.point.key) if reading.point else (reading.source, reading.owner)


def _record(tensor: Tensor | None, device: torch.device) -> Tensor:
    """The record of a tensor, of which a process may have no part; NaN where there is none at all."""
    shard = None if tensor is None else local(tensor)
    if shard is None or not shard.numel():
        return torch.full((RECORD,), math.nan if shard is None else 0.0, device=device)
    return moments(shard)

"""Memory that FSDP2 takes on one of several ranks, beside the rank's shards."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from blockgraph.apart import Rows, made_whole, outsized, read_through
from blockgraph.kernels.base import GraphModule
from blockgraph.ledger import GATHERED, GRADIENTS, REDUCED, Ledger, tensors

REDUCE_BYTES = 4  # gradients are summed over the ranks, and kept, in fp32


def shard(shape: Sequence[int], ranks: int) -> int:
    """Entries of the largest shard of a tensor; FSDP2 cuts the first axis."""
    return -(-prod(shape[:1]) // ranks) * prod(shape[1:])


def shared(units: Iterable[nn.Module]) -> set[nn.Parameter]:
    """Parameters of more than one unit; the root gathers them with its own."""
    counts = Counter(parameter for unit in units for parameter in unit.parameters())
    return {parameter for parameter, count in counts.items() if count > 1}


class Gathering:
    """Weights of a model in the compute dtype, as FSDP2 gathers them: each unit for its turn, the rest for the step.

    A unit is gathered into a flat buffer and from there into its weights, in the backward pass one unit ahead. Its
    gradients are reduced once all are there, from one copy in fp32 that stays until that of the next unit. `again` says
    that earlier micro-batches have left gradients, whole and in fp32, to which those of this one are added. A parameter
    outside the units that outweighs each of them is whole only while it is read, and its gradient is reduced at once.
    On a CPU (`cpu`) a gradient in another dtype than fp32 is copied once more on its way into what is reduced.
    """

    def __init__(self, model: GraphModule, ledger: Ledger, ranks: int, dtype: torch.dtype, again: bool, cpu: bool):
        units = model.blocks()
        self.ledger, self.ranks, self.dtype, self.again = ledger, ranks, dtype, again
        self.copies = cpu and not again and dtype is not torch.float32
        owner = {weight: number for number, unit in enumerate(units) for weight in unit.parameters()}
        owner |= dict.fromkeys(shared(units), len(units))
        apart = self._apart(model)
        together = [weight for weight in model.parameters() if weight not in apart]
        self.group: dict[Tensor, int] = {weight: owner.get(weight, len(units)) for weight in together}
        self.groups: list[list[Tensor]] = [[] for _ in range(len(units) + 1)]
        for weight, group in self.group.items():
            weight.data = weight.data.to(dtype)
            self.groups[group].append(weight)
        self.left = [len(group) for group in self.groups]
        self.whole = [sum(weight.nbytes for weight in group) for group in self.groups]
        for number, unit in enumerate(units):
            unit.register_forward_pre_hook(partial(self._enter, number))
            unit.register_forward_hook(partial(self._leave, number))
        model.register_forward_hook(lambda *_: ledger.hold(GATHERED, self.whole[-1]))
        self.kept = self._fp32(weight.numel() for weight in (*self.group, *apart)) if again else 0
        ledger.hold(GRADIENTS, self.kept)
        ledger.hold(GATHERED, 2 * self.whole[-1])

    def collect(self, weight: Tensor) -> None:
        """A gradient is whole; with the last one of its group all are reduced. Those of shards are already."""
        assert weight.grad is not None
        if weight not in self.group:
            self._keep(weight)
            return
        self.ledger.move(weight.grad, REDUCED)
        if self.again and self.dtype is torch.float32:
            weight.grad = None  # autograd has added it to the one that is there
        group = self.group[weight]
        self.left[group] -= 1
        if not self.left[group]:
            self._reduce(group)

    def _keep(self, shard: Tensor) -> None:
        assert shard.grad is not None
        self.ledger.move(shard.grad, GRADIENTS)
        if self.again:
            shard.grad = None  # it has been added to the one that is there

    def _apart(self, model: GraphModule) -> set[nn.Parameter]:
        """Leave a shard of each large parameter in its place, from which it is made whole when it is read."""
        found = {weight: self._whole(weight.shape) for weight in outsized(model)}
        for weight in found:
            weight.data = torch.empty(shard(weight.shape[:1], self.ranks), *weight.shape[1:])
        read_through(model, lambda weight: made_whole(weight, found[weight]), found)
        return set(found)

    def _whole(self, shape: torch.Size) -> "_Rehearsed":
        return _Rehearsed(Rows(shape, self.ranks, 0, self.dtype, _send, _send), self.ledger)

    def _enter(self, unit: int, *_: Any) -> None:
        """Before the first unit, what is outside them has just been gathered."""
        for flat in (self.whole[-1], 0) if unit == 0 else (0,):
            self.ledger.hold(GATHERED, flat + self.whole[-1] + 2 * self.whole[unit])

    def _leave(self, unit: int, _unit: nn.Module, _inputs: Any, outputs: Any) -> None:
        self.ledger.hold(GATHERED, self.whole[-1])
        for tensor in tensors(outputs):
            tensor.register_hook(partial(self._return, unit))  # type: ignore[no-untyped-call]

    def _return(self, unit: int, *_: Any) -> None:
        """A gradient has come back to a unit."""
        self.ledger.hold(GATHERED, self.whole[-1] + sum(self.whole[max(0, unit - 1) : unit + 1]))

    def _reduce(self, group: int) -> None:
        is_unit, weights = group < len(self.groups) - 1, self.groups[group]
        if self.again:
            self._free(weights)
        self.ledger.hold(GATHERED, self.whole[-1] + (self.whole[group - 1] if group else 0) if is_unit else 0)
        whole = self._fp32(weight.numel() for weight in weights)
        self.ledger.hold(REDUCED, whole + max(weight.nbytes for weight in weights) * self.copies)
        self.ledger.hold(REDUCED, whole)
        self.kept += self._fp32(shard(weight.shape, self.ranks) for weight in weights) - (whole if self.again else 0)
        self._free(weights)
        self.ledger.hold(GRADIENTS, self.kept)

    def _free(self, weights: list[Tensor]) -> None:
        for weight in weights:
            weight.grad = None

    def _fp32(self, entries: Iterable[int]) -> int:
        return REDUCE_BYTES * sum(entries)


class _Rehearsed:
    """What `rows` does, in memory alone."""

    def __init__(self, rows: Rows, ledger: Ledger):
        self.rows, self.ledger = rows, ledger

    def gather(self, shard: Tensor) -> Tensor:
        with self.ledger.counting(GATHERED):
            return self.rows.gather(shard)

    def reduce(self, gradient: Tensor) -> Tensor:
        self.ledger.move(gradient, REDUCED)
        with self.ledger.counting(REDUCED):
            return self.rows.reduce(gradient)


def _send(found: Tensor, sent: Tensor) -> None:
    """No message; both tensors are there already."""

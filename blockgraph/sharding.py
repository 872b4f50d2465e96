"""Memory that FSDP2 takes on one of several ranks, beside the rank's shards."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from blockgraph.kernels.base import GraphModule
from blockgraph.ledger import GATHERED, GRADIENTS, REDUCED, Ledger, tensors

REDUCE_BYTES = 4  # gradients are summed over the ranks, and kept, in fp32


def shard(shape: Sequence[int], ranks: int) -> int:
    """Entries of the largest shard of a tensor; FSDP2 cuts the first axis."""
    return -(-prod(shape[:1]) // ranks) * prod(shape[1:])


class Sharding:
    """Weights of a model in the compute dtype, as FSDP2 gathers them: each layer for its turn, the rest for the step.

    A layer is gathered into a flat buffer and from there into its weights, in the backward pass one layer ahead. The
    gradients of a layer are reduced once all are there, from one copy in fp32 that stays until the next layer's.
    """

    def __init__(self, model: GraphModule, ledger: Ledger, ranks: int, dtype: torch.dtype):
        self.ledger, self.ranks, blocks = ledger, ranks, model.blocks()
        owners = {weight: layer for layer, block in reversed([*enumerate(blocks)]) for weight in block.parameters()}
        self.group: dict[Tensor, int] = {weight: owners.get(weight, len(blocks)) for weight in model.parameters()}
        self.groups: list[list[Tensor]] = [[] for _ in range(len(blocks) + 1)]
        for weight, group in self.group.items():
            weight.data = weight.data.to(dtype)
            self.groups[group].append(weight)
        self.whole = [sum(weight.nbytes for weight in group) for group in self.groups]
        self.reduced: set[Tensor] = set()
        for layer, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._enter, layer))
            block.register_forward_hook(partial(self._leave, layer))

    def collect(self, weight: Tensor) -> None:
        """A gradient is whole; with the last one of its group all are reduced."""
        assert weight.grad is not None
        self.ledger.move(weight.grad, REDUCED)
        group = self.group[weight]
        if all(member.grad is not None for member in self.groups[group]):
            self._reduce(group)

    def _enter(self, layer: int, *_: Any) -> None:
        """Ahead of the first layer, what is outside the layers has just been gathered."""
        for flat in (self.whole[-1], 0) if layer == 0 else (0,):
            self.ledger.hold(GATHERED, flat + self.whole[-1] + 2 * self.whole[layer])

    def _leave(self, layer: int, _block: nn.Module, _inputs: Any, outputs: Any) -> None:
        self.ledger.hold(GATHERED, self.whole[-1])
        for tensor in tensors(outputs):
            tensor.register_hook(partial(self._return, layer))  # type: ignore[no-untyped-call]

    def _return(self, layer: int, *_: Any) -> None:
        """A gradient has come back to a layer."""
        self.ledger.hold(GATHERED, self.whole[-1] + sum(self.whole[max(0, layer - 1) : layer + 1]))

    def _reduce(self, group: int) -> None:
        is_layer = group < len(self.groups) - 1
        self.ledger.hold(GATHERED, self.whole[-1] + (self.whole[group - 1] if group else 0) if is_layer else 0)
        self.ledger.hold(REDUCED, REDUCE_BYTES * sum(map(Tensor.numel, self.groups[group])))
        self.reduced.update(self.groups[group])
        self.ledger.hold(GRADIENTS, REDUCE_BYTES * sum(shard(weight.shape, self.ranks) for weight in self.reduced))
        for weight in self.groups[group]:
            weight.grad = None

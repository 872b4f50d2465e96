"""Parameters that are kept in shards and made whole each time that a forward pass reads them, a large one at a time."""

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blockgraph.kernels.base import GraphModule

MESSAGE_BYTES = 2**25  # of all processes together; what is in flight takes little beside the parameter
Send = Callable[[Tensor, Tensor], object]  # the second from every process, put together in the first


class Whole(Protocol):
    """How a parameter is made whole from this process's shard, and a whole gradient becomes that of the shard."""

    def gather(self, shard: Tensor) -> Tensor:
        """The whole parameter, in the dtype of the compute."""

    def reduce(self, gradient: Tensor) -> Tensor:
        """This process's shard of the gradients of all, in fp32."""


def outsized(model: GraphModule) -> list[nn.Parameter]:
    """Parameters outside the layers that outweigh every layer; of a language model its embedding and head."""
    layers = model.blocks()
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    most = max((sum(weight.numel() for weight in layer.parameters()) for layer in layers), default=0)
    return [weight for weight in model.parameters() if weight not in inside and weight.numel() > most]


def owners(model: nn.Module, parameter: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
    """Where a parameter stands: the modules, and the name it has there."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            if value is parameter:
                yield module, name


def read_through(model: nn.Module, read: Callable[[nn.Parameter], Tensor], parameters: Iterable[nn.Parameter]) -> None:
    """In the forward pass of the model, let `read` make what is found in the place of these parameters.

    Everywhere else, and under their names, they are what they were.
    """
    reader = _Reader(read)
    for parameter in parameters:
        for module, name in [*owners(model, parameter)]:
            kind = type(module)
            module.__class__ = type(kind.__name__, (kind,), {name: property(reader.of(name))})
    model.register_forward_pre_hook(lambda *_: setattr(reader, "active", True))
    model.register_forward_hook(lambda *_: setattr(reader, "active", False), always_call=True)


def made_whole(shard: Tensor, whole: Whole) -> Tensor:
    """The whole parameter of a shard, whose gradient goes back to the shards of all processes."""
    made: Tensor = _MadeWhole.apply(shard, whole)  # type: ignore[no-untyped-call]
    return made


class Rows:
    """A parameter cut along its first axis, as FSDP2 cuts it; it is sent in pieces of `MESSAGE_BYTES`.

    `gather` and `reduce` send one piece: they put the pieces of all processes side by side, and take the mean.
    """

    def __init__(self, shape: torch.Size, shards: int, number: int, dtype: torch.dtype, gather: Send, reduce: Send):
        self.shape, self.shards, self.dtype = shape, shards, dtype
        self.send_gather, self.send_reduce = gather, reduce
        self.most = -(-shape[0] // shards)  # rows of a shard; the last ones may have fewer
        self.held = len(range(*self._rows(number, 0, self.most)))

    def gather(self, shard: Tensor) -> Tensor:
        """All rows, in the dtype of the compute."""
        whole = shard.new_empty(self.shape, dtype=self.dtype)
        for first, count in self._pieces():
            sent = whole.new_empty(count, *self.shape[1:])
            mine = shard[first : first + count]
            sent[: len(mine)] = mine
            found = whole.new_empty(self.shards, *sent.shape)
            self.send_gather(found.flatten(), sent.flatten())
            for number in range(self.shards):
                start, end = self._rows(number, first, count)
                whole[start:end] = found[number, : end - start]
        return whole

    def reduce(self, gradient: Tensor) -> Tensor:
        """The mean over all processes, of the rows that this one holds."""
        shard = gradient.new_empty(self.held, *self.shape[1:], dtype=torch.float32)
        for first, count in self._pieces():
            sent = shard.new_empty(self.shards, count, *self.shape[1:])
            for number in range(self.shards):
                start, end = self._rows(number, first, count)
                sent[number, : end - start] = gradient[start:end]
            found = shard.new_empty(sent.shape[1:])
            self.send_reduce(found.flatten(), sent.flatten())
            mine = shard[first : first + count]
            mine.copy_(found[: len(mine)])
        return shard

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows, within a shard, of each piece that is sent."""
        size = max(1, MESSAGE_BYTES // (4 * self.shards * prod(self.shape[1:])))
        for first in range(0, self.most, size):
            yield first, min(size, self.most - first)

    def _rows(self, number: int, first: int, count: int) -> tuple[int, int]:
        """Where some rows of a shard begin and end in the whole parameter."""
        start = min(number * self.most + first, self.shape[0])
        return start, min(start + count, self.shape[0])


class _Reader:
    """Getters of parameters: what `read` makes of one while the reader is active, and else the parameter."""

    def __init__(self, read: Callable[[nn.Parameter], Tensor]):
        self.read, self.active = read, False

    def of(self, name: str) -> Callable[[nn.Module], Any]:
        def get(module: nn.Module) -> Any:
            parameter = module._parameters[name]
            return self.read(parameter) if self.active and parameter is not None else parameter

        return get


class _MadeWhole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: Tensor, whole: Whole) -> Tensor:
        ctx.whole = whole
        return whole.gather(shard)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.whole.reduce(gradient), None

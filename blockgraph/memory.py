"""Live bytes of a training step, moment by moment, found by taking it on tensors that hold no data."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from blockgraph.graph import Graph
from blockgraph.kernels.base import GraphModule
from blockgraph.model import build

Loss = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Moment = dict[str, int]

# What bytes are for, beside the weights themselves and the optimiser's state.
GRADIENTS = "gradients"  # of the weights, or this rank's shards of them
GATHERED = "gathered"  # weights as the kernels read them: copies in the compute dtype, or gathered from the shards
REDUCED = "reduced"  # whole gradients on their way to the shards
INPUT = "input"  # made before the first layer
LAYERS = "layers"  # made by the layers in the forward pass
OUTPUT = "output"  # made after the last layer, logits and loss among it
BACKWARD = "backward"  # gradients of activations, and activations that are computed again
KINDS = (GATHERED, REDUCED, GRADIENTS, INPUT, LAYERS, OUTPUT, BACKWARD)

REDUCE_BYTES = 4  # gradients are summed over ranks, and kept, in fp32
LEAST = 2  # sequences; with one, torch leaves out copies that every other number needs


@dataclass(frozen=True)
class Setting:
    """How a step is taken: tokens of a sequence, dtype of the compute, ranks that share the weights.

    `recompute` keeps of every layer only what it is given; `again` says that an earlier micro-batch left gradients.
    """

    seq: int
    dtype: torch.dtype
    shards: int = 1
    recompute: bool = False
    again: bool = False


@dataclass(frozen=True)
class Timeline:
    """Every moment of a step with two sizes of the micro-batch.

    A storage either grows with the micro-batch or does not, so the bytes of a moment lie on a line, and two sizes
    tell all others.
    """

    sizes: tuple[int, int]
    moments: Sequence[tuple[Moment, Moment]]

    def peak(self, micro: int) -> Moment:
        """The fullest moment with this many sequences, in bytes by kind."""
        few, many = self.sizes
        line = partial(_line, share=(micro - few) / (many - few))
        low, high = max(self.moments, key=lambda pair: line(*(sum(moment.values()) for moment in pair)))
        return {kind: round(line(low.get(kind, 0), high.get(kind, 0))) for kind in KINDS}


def timeline(graph: Graph, loss: Loss, setting: Setting, micro: int) -> Timeline:
    """A step of the graph's module with `micro` sequences, and with twice as many."""
    few = max(LEAST, micro)
    first, second = (rehearse(graph, loss, setting, size) for size in (few, 2 * few))
    if len(first) != len(second):  # a kernel does something else for another size, so only the peaks compare
        first, second = ([max(moments, key=lambda moment: sum(moment.values()))] for moments in (first, second))
    return Timeline((few, 2 * few), list(zip(first, second, strict=True)))


def rehearse(graph: Graph, loss: Loss, setting: Setting, micro: int) -> list[Moment]:
    """Forward and backward pass of a micro-batch: the bytes that live, by kind, whenever some are added.

    The weights' own bytes are left out, and what a kernel needs inside itself is not seen.
    """
    with FakeTensorMode():
        model = build(graph)
        model.compute_dtype = setting.dtype
        ledger = Ledger()
        _follow_layers(model, ledger, setting.recompute)
        _follow_weights(model, ledger, setting)
        with ledger:
            tokens = torch.zeros(micro, setting.seq + 1, dtype=torch.int64)
            losses = loss(model(tokens[:, :-1]), tokens[:, 1:])
            ledger.kind = BACKWARD
            torch.autograd.backward(sum(losses))
    return ledger.moments


def shard(shape: Sequence[int], shards: int) -> int:
    """Entries of the largest shard of a tensor, of which FSDP2 cuts the first axis."""
    return -(-shape[0] // shards) * prod(shape[1:])


class Ledger(TorchDispatchMode):
    """Counts the storages that live while it is entered, each under the kind that was set when it was made.

    What is made of weights alone, such as their copies in bf16, is `GATHERED`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = INPUT
        self.live: Counter[str] = Counter()
        self.moments: list[Moment] = []
        self._held: Counter[str] = Counter()
        self._known: dict[int, tuple[str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if _key(tensor) not in self._known:
                self.add(tensor, GATHERED if self._of_weights(args) else self.kind)
        return result

    def add(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor until its storage is freed."""
        storage = tensor.untyped_storage()
        self._known[_key(tensor)] = kind, storage.nbytes()
        self._count(kind, storage.nbytes())
        weakref.finalize(storage, self._drop, _key(tensor))

    def skip(self, weight: Tensor) -> None:
        """Leave a weight's own bytes out."""
        self._known[_key(weight)] = GATHERED, 0

    def move(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor under another kind from now on."""
        before, size = self._known[_key(tensor)]
        self._known[_key(tensor)] = kind, size
        self.live[before] -= size
        self.live[kind] += size

    def hold(self, kind: str, size: int) -> None:
        """Count bytes for which no tensor is made here, in place of those held before under this kind."""
        self._count(kind, size - self._held[kind])
        self._held[kind] = size

    def _count(self, kind: str, size: int) -> None:
        self.live[kind] += size
        self.moments.append(dict(self.live))

    def _of_weights(self, args: Any) -> bool:
        inputs = [self._known.get(_key(tensor), ("", 0))[0] for tensor in _tensors(args)]
        return bool(inputs) and set(inputs) == {GATHERED}

    def _drop(self, key: int) -> None:
        kind, size = self._known.pop(key)
        self.live[kind] -= size


class _Shards:
    """What FSDP2 holds on one of several ranks beyond the shards, for a group of weights at a time.

    A layer is gathered into a flat buffer and from there into its weights, in the backward pass one layer ahead; what
    is outside the layers stays gathered to the end. The gradients of a group are reduced from one copy in fp32.
    """

    def __init__(self, model: GraphModule, ledger: Ledger, setting: Setting):
        self.ledger, self.shards, blocks = ledger, setting.shards, model.blocks()
        owner = {weight: layer for layer, block in reversed([*enumerate(blocks)]) for weight in block.parameters()}
        groups = {weight: owner.get(weight, len(blocks)) for weight in model.parameters()}
        self.groups = [[weight for weight in groups if groups[weight] == group] for group in range(len(blocks) + 1)]
        self.whole = [sum(weight.nbytes for weight in group) for group in self.groups]
        self.reduced: set[nn.Parameter] = set()
        for layer, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self.forward, layer))
            block.register_forward_hook(partial(self.leave, layer))
        for weight, group in groups.items():
            weight.register_post_accumulate_grad_hook(partial(self.collect, group))
        self.keep(groups if setting.again else ())

    def forward(self, layer: int, *_: Any) -> None:
        """A layer is gathered; ahead of the first one, what is outside the layers has just been."""
        for flat in (self.whole[-1], 0) if layer == 0 else (0,):
            self.ledger.hold(GATHERED, flat + self.whole[-1] + 2 * self.whole[layer])

    def leave(self, layer: int, _block: nn.Module, _inputs: Any, outputs: Any) -> None:
        """A layer has run; it is gathered again when a gradient comes back to it."""
        self.ledger.hold(GATHERED, self.whole[-1])
        for tensor in _tensors(outputs):
            tensor.register_hook(partial(self.backward, layer))

    def backward(self, layer: int, *_: Any) -> None:
        """A layer is gathered, and the one that comes after it as well."""
        self.ledger.hold(GATHERED, self.whole[-1] + sum(self.whole[max(0, layer - 1) : layer + 1]))

    def collect(self, group: int, weight: Tensor) -> None:
        """A gradient is whole; once all of a group are, they are reduced and freed."""
        assert weight.grad is not None
        self.ledger.move(weight.grad, REDUCED)
        if all(weight.grad is not None for weight in self.groups[group]):
            self.reduce(group)

    def reduce(self, group: int) -> None:
        """Gradients become shards, by way of a copy that stays until the next one."""
        members = self.groups[group]
        self.ledger.hold(GATHERED, self.whole[-1] if group < len(self.groups) - 1 else 0)
        self.ledger.hold(REDUCED, REDUCE_BYTES * sum(map(Tensor.numel, members)))
        self.keep(members)
        for weight in members:
            weight.grad = None

    def keep(self, weights: Iterable[nn.Parameter]) -> None:
        """Gradients of these weights are there, in shards."""
        self.reduced.update(weights)
        self.ledger.hold(GRADIENTS, REDUCE_BYTES * sum(shard(weight.shape, self.shards) for weight in self.reduced))


def _follow_layers(model: GraphModule, ledger: Ledger, recompute: bool) -> None:
    """Let the ledger know when a layer runs, and checkpoint each where that is asked for."""
    for block in model.blocks():
        block.register_forward_pre_hook(lambda *_: setattr(ledger, "kind", LAYERS))
        block.register_forward_hook(lambda *_: setattr(ledger, "kind", OUTPUT))
        if recompute:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def _follow_weights(model: GraphModule, ledger: Ledger, setting: Setting) -> None:
    """Leave the weights out of the ledger, and count their gradients as those of one process or of one rank of many."""
    for weight in model.parameters():
        if setting.shards > 1:
            weight.data = weight.data.to(setting.dtype)
        elif setting.again:
            weight.grad = torch.zeros_like(weight)
            ledger.add(weight.grad, GRADIENTS)
        if setting.shards == 1:
            weight.register_post_accumulate_grad_hook(lambda weight: ledger.move(weight.grad, GRADIENTS))
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.skip(tensor)
    if setting.shards > 1:
        _Shards(model, ledger, setting)


def _line(first: int, second: int, share: float) -> float:
    return first + (second - first) * share


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    """The same for all tensors that share a storage, as long as it lives."""
    return tensor.untyped_storage()._cdata

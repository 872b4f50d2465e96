"""Memory of a training step, moment by moment, found by taking the step on tensors that hold no data."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from blockgraph.gathering import Gathering
from blockgraph.graph import Graph
from blockgraph.kernels.base import GraphModule
from blockgraph.ledger import BACKWARD, GRADIENTS, KINDS, LAYERS, OUTPUT, Ledger, Moment
from blockgraph.model import build
from blockgraph.recompute import NOTHING

Loss = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Collect = Callable[[Tensor], None]

LEAST = 2  # sequences; for one alone torch leaves out copies that every other number needs
FIRST = 3  # layers of a kind that run before others stand in; the third is the first whose input is a layer's output
LAST = 2  # layers of a kind that run at the end; the backward pass is fullest there


@dataclass(frozen=True)
class Setting:
    """How a step is taken: tokens of a sequence, dtype of the compute, ranks over which FSDP2 shards the weights.

    No ranks are one process without FSDP2. `recompute` names what the layers compute again in the backward pass.
    `again` says that earlier micro-batches have left their gradients, to be reduced with those of this one, and `cpu`
    that the ranks are on CPUs.
    """

    seq: int
    dtype: torch.dtype
    ranks: int | None = None
    recompute: tuple[str, ...] = NOTHING
    again: bool = False
    cpu: bool = False


@dataclass(frozen=True)
class Timeline:
    """Every moment of a step at two sizes of the micro-batch.

    A storage either grows with the micro-batch or does not, so the bytes of a moment lie on a line, and two sizes
    tell all others.
    """

    sizes: tuple[int, int]
    moments: Sequence[tuple[Moment, Moment]]

    def peak(self, micro: int) -> Moment:
        """The fullest moment with this many sequences, in bytes by kind."""
        few, many = self.sizes
        share = (micro - few) / (many - few)
        return max((_between(*pair, share) for pair in self.moments), key=_total)


def timeline(graph: Graph, loss: Loss, setting: Setting, micro: int) -> Timeline:
    """A step of the graph's module with `micro` sequences, and with twice as many."""
    few = max(LEAST, micro)
    first, second = (rehearse(graph, loss, setting, size) for size in (few, 2 * few))
    if len(first) != len(second):  # a kernel does something else for another size, so only the peaks compare
        first, second = [max(first, key=_total)], [max(second, key=_total)]
    return Timeline((few, 2 * few), list(zip(first, second, strict=True)))


def rehearse(graph: Graph, loss: Loss, setting: Setting, micro: int, first: int = FIRST) -> list[Moment]:
    """Forward and backward pass of a micro-batch: the bytes that live, by kind, whenever some are added.

    Of layers with the same block the `first` ones and the last ones run, and something that takes as much memory
    stands in for the others. Weights are left out, and what a kernel needs inside itself is not seen.
    """
    with torch.device("meta"):
        model = build(graph, recompute=setting.recompute)
    with FakeTensorMode():
        refill(model, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        model.compute_dtype = setting.dtype
        ledger = Ledger()
        layers = _Layers(ledger, _follow_weights(model, ledger, setting))
        layers.follow(graph, model.blocks(), first)
        with ledger:
            tokens = torch.zeros(micro, setting.seq + 1, dtype=torch.int64)
            others = [torch.zeros(micro, setting.seq, dtype=torch.int64) for _ in [*graph.inputs][1:]]
            losses = loss(model(tokens[:, :-1], *others), tokens[:, 1:])
            ledger.kind = BACKWARD
            torch.autograd.backward(sum(losses[1:], losses[0]))
    return ledger.moments


def refill(model: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Put another tensor in the place of every parameter and buffer."""
    for module in model.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(make(weight)))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, make(buffer))


class _Layers:
    """Tells the ledger which layer runs, and stands in for a layer by what the one like it has added."""

    def __init__(self, ledger: Ledger, collect: Collect):
        self.ledger, self.collect = ledger, collect
        self.before: Counter[str] = Counter()
        self.growth: dict[type, Counter[str]] = {}

    def follow(self, graph: Graph, blocks: list[GraphModule], first: int) -> None:
        """Choose the layers that run, and let the others stand in."""
        kinds = [node.blocks[index] for node in graph.nodes.values() for index in node.plan]
        types = [type(block) for block in blocks]
        layers = list(zip(blocks, kinds, strict=True))
        runs = [
            place for place, (_, kind) in enumerate(layers)
            if types[:place].count(types[place]) < first
            or types[place + 1 :].count(types[place]) < LAST
            or not set(kind.outputs) <= set(kind.inputs)
        ]  # fmt: skip
        used = {weight for place in runs for weight in blocks[place].parameters()}
        for place, (block, kind) in enumerate(layers):
            if place in runs:
                self._run(block)
            else:
                weights = [weight for weight in block.parameters() if weight not in used]
                block.forward = partial(self._forward, type(block), kind, weights)

    def _run(self, block: GraphModule) -> None:
        block.register_forward_pre_hook(lambda *_: setattr(self.ledger, "kind", LAYERS))
        block.register_forward_hook(lambda *_: self._leave(type(block)))

    def _leave(self, layer: type) -> None:
        self.ledger.kind = OUTPUT
        self.growth[layer] = Counter(self.ledger.live)
        self.growth[layer].subtract(self.before)
        self.before = Counter(self.ledger.live)

    def _forward(self, layer: type, kind: Graph, weights: list[nn.Parameter], *inputs: Tensor) -> Any:
        """Take the memory of a layer, and give on what it was given."""
        growth = self.growth[layer]
        self.ledger.grow(growth)
        self.before = Counter(self.ledger.live)
        carried = dict(zip(kind.inputs, inputs, strict=True))
        outputs = tuple(carried[name].view_as(carried[name]) for name in kind.outputs)
        outputs[0].register_hook(lambda _: self._backward(growth, weights))  # type: ignore[no-untyped-call]
        return outputs if len(outputs) > 1 else outputs[0]

    def _backward(self, growth: Counter[str], weights: list[nn.Parameter]) -> None:
        self.ledger.grow({kind: -size for kind, size in growth.items()})
        for weight in weights:
            weight.grad = torch.empty_like(weight)
            self.collect(weight)


def _follow_weights(model: GraphModule, ledger: Ledger, setting: Setting) -> Collect:
    """Leave the weights out; the function that is told of each gradient, as one process or one rank of many has it."""
    if setting.ranks:
        collect = Gathering(model, ledger, setting.ranks, setting.dtype, setting.again, setting.cpu).collect
    else:
        collect = partial(_stay, ledger, setting.again)
        ledger.hold(GRADIENTS, sum(weight.nbytes for weight in model.parameters()) if setting.again else 0)
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.skip(tensor)
    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(collect)  # type: ignore[no-untyped-call]
    return collect


def _stay(ledger: Ledger, again: bool, weight: Tensor) -> None:
    """A gradient of one process stays where it was made, unless it was added to one that is there."""
    assert weight.grad is not None
    ledger.move(weight.grad, GRADIENTS)
    if again:
        weight.grad = None


def _between(low: Moment, high: Moment, share: float) -> Moment:
    return {kind: round(low.get(kind, 0) + (high.get(kind, 0) - low.get(kind, 0)) * share) for kind in KINDS}


def _total(moment: Moment) -> int:
    return sum(moment.values())

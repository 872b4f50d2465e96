"""What a run will need: memory of a rank, arithmetic, time, and room on the disk."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, UnsupportedOperatorException

import blockgraph
from blockgraph.graph import Graph
from blockgraph.kernels.base import GraphModule
from blockgraph.memory import Setting, Timeline, refill, timeline
from blockgraph.sharding import shard
from runners import optim
from runners.config import RunConfig
from runners.devices import Machines
from runners.loss import loss_for
from runners.runfile import RunFile
from runners.trainer import DTYPES

FP32 = 4  # bytes
BACKWARD = 2  # matrix products of the backward pass for each one of the forward pass
RECOMPUTE = {"none": False, "block": True}
WEIGHTS, OPTIMISER = "weights", "optimiser"


@dataclass(frozen=True)
class Mode:
    """What a run needs when activations are kept in one way: bytes of a rank at the fullest moment, FLOP, seconds.

    `largest` is the largest micro-batch that fits into a rank's memory; none where not even one sequence does.
    """

    parts: Mapping[str, int]
    fits: bool
    largest: int | None
    flops: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run will need, on all machines or, of memory, on one rank."""

    parameters: int
    layers: int
    tokens: int
    micro: int
    micro_batches: int
    gradients: int
    checkpoint: int
    modes: Mapping[str, Mode]


@dataclass(frozen=True)
class Holdings:
    """Bytes that a rank holds from step to step, and bytes of a checkpoint."""

    weights: int
    gradients: int
    optimiser: int
    checkpoint: int


def plan(run: RunFile, graph: Graph, machines: Machines, micro: int) -> Plan:
    """What a run of this graph needs with `micro` sequences in a rank's forward pass.

    Raises `SpecError` when an op cannot run without data.
    """
    config = run.config
    share = config.train.batch // machines.ranks
    held = holdings(graph, config, machines.shard)
    modes = {name: _mode(run, graph, machines, held, micro, recompute) for name, recompute in RECOMPUTE.items()}
    return Plan(
        parameters=blockgraph.cost(graph).parameters,
        layers=sum(len(node.plan) for node in graph.nodes.values()),
        tokens=config.train.batch * config.data.seq,
        micro=micro,
        micro_batches=share // micro,
        gradients=held.gradients,
        checkpoint=held.checkpoint,
        modes=modes,
    )


def holdings(graph: Graph, config: RunConfig, ranks: int) -> Holdings:
    """What `ranks` that share the weights hold between two steps, the largest shard of each tensor counted."""
    with torch.device("meta"):
        model = blockgraph.compile(graph)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    buffers = [buffer.nbytes for buffer in model.buffers()]
    saved = [buffer.nbytes for name, buffer in model.named_buffers() if name in model.state_dict()]
    moments, rest = _moments(model, config)
    entries = {name: shard(shape, ranks) for name, shape in shapes.items()}
    return Holdings(
        weights=FP32 * sum(entries.values()) + sum(buffers),
        gradients=FP32 * sum(entries.values()),
        optimiser=sum(entries[name] * moments[name] for name in entries) + rest,
        checkpoint=sum(shape.numel() * (FP32 + moments[name]) for name, shape in shapes.items()) + sum(saved) + rest,
    )


def _moments(model: GraphModule, config: RunConfig) -> tuple[dict[str, int], int]:
    """Bytes of the optimiser's state for an entry of each weight, and of what does not grow with the weights.

    A step on weights of one entry tells. Raises `SpecError` when the optimiser does not suit the model.
    """
    refill(model, lambda tensor: torch.ones((1,) * tensor.ndim))
    optimizer = optim.make(model, model.weights, config.optim)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    moments, rest = {}, 0
    for name, weight in model.named_parameters():
        state = list(optimizer.state[weight].values())
        moments[name] = sum(tensor.itemsize for tensor in state if tensor.shape == weight.shape)
        rest += sum(tensor.nbytes for tensor in state) - moments[name]
    return moments, rest


def _mode(run: RunFile, graph: Graph, machines: Machines, held: Holdings, micro: int, recompute: bool) -> Mode:
    train = run.config.train
    share = train.batch // machines.ranks
    ranks = machines.shard if machines.ranks > 1 else None
    setting = Setting(run.config.data.seq, DTYPES[train.precision], ranks, recompute)
    step = _timeline(run, graph, setting, micro)

    def parts(micro: int) -> dict[str, int]:
        left = held.gradients if micro < share else 0  # by the micro-batch before
        return {WEIGHTS: held.weights, OPTIMISER: held.optimiser} | step.peak(micro, left)

    fitting = (size for size in _divisors(share) if sum(parts(size).values()) <= machines.usable)
    flops = _flops(graph, run.config, recompute)
    rate = machines.ranks * machines.device.rates[train.precision] * machines.utilisation
    needed = parts(micro)
    fits = sum(needed.values()) <= machines.usable
    return Mode(needed, fits, next(fitting, None), flops, flops / rate)


def _timeline(run: RunFile, graph: Graph, setting: Setting, micro: int) -> Timeline:
    try:
        return timeline(graph, loss_for(run.config.optim.z_loss, compiled=False), setting, micro)
    except (DataDependentOutputException, UnsupportedOperatorException) as error:
        raise run.refuse("model", f"a plan runs the model without data, and {error.func} asks for them") from None


def _flops(graph: Graph, config: RunConfig, recompute: bool) -> int:
    """FLOP of matrix products in a step: forward, backward, and forward through the layers again where asked for."""
    costs, batch, seq = blockgraph.cost(graph), config.train.batch, config.data.seq
    again = sum(row.flops(batch, seq) for row in costs.rows if row.node.blocks and row.depth == 0)
    return (1 + BACKWARD) * costs.flops(batch, seq) + (again if recompute else 0)


def _divisors(number: int) -> Iterable[int]:
    """The largest first."""
    return (size for size in range(number, 0, -1) if number % size == 0)

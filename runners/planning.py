"""What a run will need: memory of a rank, arithmetic, time, and room on the disk."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, UnsupportedOperatorException

import blockgraph
from blockgraph.gathering import shard
from blockgraph.graph import Graph
from blockgraph.kernels.base import GraphModule
from blockgraph.memory import Setting, Timeline, refill, timeline
from runners import optim
from runners.compiling import compiling
from runners.config import RECOMPUTED, RunConfig, Train
from runners.devices import Machines
from runners.flops import step_flops
from runners.lowering import has_native, lowered
from runners.objective import objective
from runners.runfile import RunFile
from runners.trainer import DTYPES

FP32 = 4  # bytes
WEIGHTS, OPTIMISER = "weights", "optimiser"


@dataclass(frozen=True)
class Mode:
    """What a run needs with activations kept in one way: bytes of a rank at its fullest moment, FLOP, seconds.

    `largest` is the largest micro-batch with which a rank has room; None where it has none even for one sequence.
    """

    parts: Mapping[str, int]
    fits: bool
    largest: int | None
    flops: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run will need; of a step, a rank takes `share` sequences, `micro` of them at once."""

    parameters: int
    layers: int
    tokens: int
    share: int
    micro: int
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


def plan(run: RunFile, graph: Graph, machines: Machines) -> Plan:
    """What a run of this graph needs; raises `SpecError` when an op cannot run without data."""
    config = run.config
    graph = _lowered(run, graph, machines)
    share = config.train.batch // machines.ranks
    held = holdings(graph, config, machines.shard)
    steps = _Steps(run, graph, machines, min(config.train.micro, share))
    return Plan(
        parameters=blockgraph.cost(graph).parameters,
        layers=sum(len(node.plan) for node in graph.nodes.values()),
        tokens=config.train.batch * config.data.seq,
        share=share,
        micro=steps.micro,
        gradients=held.gradients,
        checkpoint=held.checkpoint,
        modes={name: steps.mode(held, names) for name, names in _ways(config.train).items()},
    )


def _ways(train: Train) -> dict[str, tuple[str, ...]]:
    """What is computed again in the backward pass, by the ways to choose it; with the run's own choice of nodes."""
    return RECOMPUTED | {train.checkpoints: train.recompute}


def _lowered(run: RunFile, graph: Graph, machines: Machines) -> Graph:
    """The graph as the run will compute it; where that is by FlexAttention, as blocks, which a CPU can rehearse."""
    device = "cpu" if machines.name == "cpu" else "cuda"
    compiled = compiling(run, graph, torch.device(device), machines.ranks).on
    native = has_native(run, device, built=False)
    decisions = lowered(run, graph, device, compiled, native).decisions
    taken = {decision.core: decision.lowering for decision in decisions}
    stand_ins = {core: "blockwise" if name == "flex" else name for core, name in taken.items()}
    return lowered(run, graph, device, compiled, native, stand_ins)


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


@dataclass(frozen=True)
class _Steps:
    """Steps of a run on a rank that takes `micro` sequences at once."""

    run: RunFile
    graph: Graph
    machines: Machines
    micro: int

    def mode(self, held: Holdings, recompute: tuple[str, ...]) -> Mode:
        """What a rank needs with these nodes computed again."""
        share = self.run.config.train.batch // self.machines.ranks
        timelines: dict[bool, Timeline] = {}

        def parts(micro: int) -> dict[str, int]:
            more = micro < share
            timelines[more] = timelines.get(more) or self.timeline(recompute, more)
            return {WEIGHTS: held.weights, OPTIMISER: held.optimiser} | timelines[more].peak(micro)

        def fits(micro: int) -> bool:
            return sum(parts(micro).values()) <= self.machines.usable

        largest = next((size for size in range(share, 0, -1) if share % size == 0 and fits(size)), None)
        flops, machines = step_flops(self.graph, self.run.config, recompute), self.machines
        rate = machines.ranks * machines.device.rates[self.run.config.train.precision] * machines.utilisation
        return Mode(parts(self.micro), fits(self.micro), largest, flops, flops / rate)

    def timeline(self, recompute: tuple[str, ...], more: bool) -> Timeline:
        """A step's fullest micro-batch: the last, which finds gradients of those before it if there are any."""
        config, ranks = self.run.config, self.machines.shard if self.machines.ranks > 1 else None
        dtype = DTYPES[config.train.precision]
        setting = Setting(config.data.seq, dtype, ranks, recompute, more, self.machines.name == "cpu")
        try:
            made = objective(self.run, self.graph)
            return timeline(made.graph, made.loss(config.optim.z_loss, compiled=False), setting, self.micro)
        except (DataDependentOutputException, UnsupportedOperatorException) as error:
            told = f"a plan runs the model without data, and {error.func} asks for them"
            raise self.run.refuse("model", told) from None

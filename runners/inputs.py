"""What a run is trained from: tokenizer, data, graph and loss, with all that is chosen for a device; its trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

import blockgraph
from blockgraph import canonical
from blockgraph.graph import Graph
from blockgraph.model import build as model_of
from blockgraph.op import Op
from blockgraph.probes import recorded as readings_of
from runners import cache, compiling, sharding, shards, tokenizer
from runners.compiling import EAGER, Compiling
from runners.lowering import begun_with, has_native, lowered, recorded
from runners.objective import Objective, objective
from runners.room import Room, room
from runners.runfile import RunFile
from runners.spec import graph_of, series_of
from runners.speed import keep_memory
from runners.trainer import Trainer
from runners.world import World

TOLD = [(False, False), (False, True), (True, False), (True, True)]  # what one message of the first process says


@dataclass(frozen=True)
class Inputs:
    """What a run is trained from; a run that goes on must find the same."""

    tokenizer: tokenizer.Tokenizer
    data: shards.Dataset
    graph: Graph
    objective: Objective
    compiling: Compiling = EAGER

    @cached_property
    def digests(self) -> dict[str, str]:
        """A hash of each, under the key of the run file that asks for it."""
        return {"model": canonical.digest(self.graph), "tokenizer": self.tokenizer.digest, "data": self.data.digest}

    @property
    def recorded(self) -> dict[str, str]:
        """What a checkpoint keeps of them: the digests, and the choices made for this device."""
        return self.digests | recorded(self.graph) | compiling.recorded(self.compiling)


def prepare(run: RunFile, ops: Mapping[str, type[Op]]) -> Inputs:
    """Tokenizer, data and graph of the run; raises `SpecError` when the model has no logit for each piece."""
    config = run.config
    words = tokenizer.prepare(config.tokenizer, config.data, cache.folder(), run.base)
    data = shards.prepare(config.data, words, cache.folder(), run.base)
    graph = graph_of(run, ops, words.vocab)
    logits = graph.type_of(next(iter(graph.outputs.values())))
    classes = logits.sizes[-1].known if logits else None
    if classes is not None and classes < words.vocab:
        raise run.refuse("set.vocab", f"the model has {classes} logits, but the tokenizer has {words.vocab} pieces")
    return Inputs(words, data, graph, objective(run, graph))


def lowered_for(run: RunFile, inputs: Inputs, world: World, kept: Mapping[str, str] | None = None) -> Inputs:
    """The inputs with all that is chosen for this device, or that a checkpoint of the run has kept.

    That is whether it is compiled, and how the attention of its graphs is lowered.
    """
    chosen = compiling.compiling(run, inputs.graph, world.device, world.size, kept)
    before, device = begun_with(kept) if kept else None, world.device.type
    compiling.keep_kernels()
    native = world.leads and before is None and has_native(run, device, built=True)
    # What the first process found holds for all of them.
    on, native = TOLD[world.most(TOLD.index((chosen.on, native)) if world.leads else 0)]
    chosen = replace(chosen, on=on)
    graph, trained = (
        lowered(run, graph, device, chosen.on, native, before) for graph in (inputs.graph, inputs.objective.graph)
    )
    return replace(inputs, graph=graph, objective=replace(inputs.objective, graph=trained), compiling=chosen)


def room_for(inputs: Inputs, world: World) -> Room:
    """What the state of the model takes of this machine's memory."""
    return room(blockgraph.cost(inputs.graph).parameters, world.pieces, world.launch.here)


def build(run: RunFile, inputs: Inputs, world: World, begins: bool = True) -> Trainer:
    """The model of a run, placed on its device with its first weights if it begins, and what takes its steps."""
    keep_memory(room_for(inputs, world).tight)
    with torch.device("meta"):
        graph = inputs.objective.graph
        readings = readings_of(graph, series_of(run, inputs.graph))
        model = model_of(graph, probes=readings, recompute=run.config.train.recompute)
    compiled = inputs.compiling.on
    sharding.place(model, run.config.train, world, compiled, begins)
    loss = inputs.objective.loss(run.config.optim.z_loss, compiled)
    return Trainer(model, run.config, inputs.data, world, compiled, loss, inputs.objective.cap)

"""A model of shapes to one that is sharded, and has memory and initial values."""

from functools import partial

import torch
from torch import float32, nn
from torch.utils.checkpoint import checkpoint

from blockgraph.kernels.base import GraphModule
from runners.config import Train
from runners.trainer import DTYPES
from runners.world import World


def place(model: GraphModule, config: Train, world: World, compiled: bool) -> None:
    """Give a model made on the meta device its memory on this process's device, in place.

    Values follow from the seed and the names, so they are those of a single process, whatever the world.
    """
    for block in model.blocks():
        again = config.checkpointing == "block"
        if compiled and again:
            # torch.compile passes by a forward that is not the block's own, so what is compiled lies inside it.
            vars(block)["forward"] = torch.compile(block.forward)
        elif compiled:
            block.compile()
        if again:
            recompute(block)
    if world.mesh:
        _shard(model, config, world)
    model.to_empty(device=world.device)
    model.initialize(config.seed)


def recompute(block: nn.Module) -> None:
    """Let a block keep its inputs alone in the forward pass, and compute the rest again in the backward pass."""
    # The forward alone, so that FSDP's hooks, which run around it, run once; and no name changes.
    vars(block)["forward"] = partial(checkpoint, block.forward, use_reentrant=False)


def _shard(model: GraphModule, config: Train, world: World) -> None:
    """FSDP2: weights gathered a block at a time in the compute dtype, gradients reduced in fp32, the rest in fp32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=DTYPES[config.precision], reduce_dtype=float32)
    for unit in (*units(model), model):
        fully_shard(unit, mesh=world.mesh, mp_policy=policy)


def units(model: GraphModule) -> list[GraphModule]:
    """The blocks, unless they share parameters: those have to be gathered together."""
    names = list(model.named_parameters(remove_duplicate=False))
    return model.blocks() if len(names) == len({id(parameter) for _, parameter in names}) else []

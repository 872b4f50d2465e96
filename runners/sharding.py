"""A model of shapes to one that is sharded, and has memory and initial values."""

from torch import float32, nn

from blockgraph.apart import outsized
from blockgraph.gathering import shared
from blockgraph.kernels.base import GraphModule
from runners.config import Train
from runners.exchange import keep_apart
from runners.trainer import DTYPES
from runners.world import World

HOLDERS = "shared__"


def place(model: GraphModule, config: Train, world: World, compiled: bool, begins: bool = True) -> None:
    """Give a model made on the meta device its memory on this process's device, in place.

    Values follow from the seed and the names, so they are those of a single process, whatever the world. A run that
    does not begin here draws none, for all of them come from its checkpoint.
    """
    if compiled:
        for block in model.blocks():
            block.compile()
    if world.mesh:
        _shard(model, config, world)
    model.to_empty(device=world.device)
    if begins:
        model.initialize(config.seed)
    else:
        model.forget()


def _shard(model: GraphModule, config: Train, world: World) -> None:
    """FSDP2: weights gathered a block at a time in the compute dtype, gradients reduced in fp32, the rest in fp32.

    Parameters that blocks share are gathered with the root's own, for as long as a step takes. Those of the root that
    outweigh a block are gathered one by one, each time that it reads them.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Values keep the dtype that the model gives them: of what layers carry, a sum of losses is in fp32.
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[config.precision], reduce_dtype=float32, cast_forward_inputs=False)
    assert world.mesh
    apart = keep_apart(model, outsized(model), world.mesh, DTYPES[config.precision])
    together = shared(model.blocks())
    for block in model.blocks():
        fully_shard(block, mesh=world.mesh, mp_policy=policy, ignored_params=together)
    # FSDP looks for parameters of the root outside the blocks, so their modules stand there while it looks, under a
    # name that no node can have.
    setattr(model, HOLDERS, nn.ModuleList(_holders(model, together)))
    fully_shard(model, mesh=world.mesh, mp_policy=policy, ignored_params=apart)
    delattr(model, HOLDERS)


def _holders(model: nn.Module, parameters: set[nn.Parameter]) -> list[nn.Module]:
    return [module for module in model.modules() if not parameters.isdisjoint(module.parameters(recurse=False))]

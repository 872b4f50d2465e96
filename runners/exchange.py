"""Large parameters in shards: made whole by messages between the processes when the model reads them."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from blockgraph.apart import Rows, made_whole, owners, read_through
from blockgraph.kernels.base import GraphModule, local


def keep_apart(
    model: GraphModule, parameters: list[nn.Parameter], mesh: DeviceMesh, dtype: torch.dtype
) -> set[nn.Parameter]:
    """Cut parameters of a model on the meta device along their first axis; those that stand in their place.

    FSDP gathers all parameters of a module together and keeps those of the root for a whole step, with a flat copy of
    the parameters and of their gradients in fp32. Of an embedding and a head that is most of a process's memory.
    """
    cut = {parameter: _cut(parameter, mesh) for parameter in parameters}
    for parameter, shards in cut.items():
        for module, name in [*owners(model, parameter)]:
            setattr(module, name, shards)
    read_through(model, partial(_read, mesh=mesh, dtype=dtype), cut.values())
    return set(cut.values())


def _cut(parameter: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    return nn.Parameter(distribute_tensor(parameter.detach(), mesh, placements, src_data_rank=None))


def _read(parameter: nn.Parameter, mesh: DeviceMesh, dtype: torch.dtype) -> Tensor:
    group = mesh.get_group(mesh.ndim - 1)
    gather, reduce = (partial(send, group=group) for send in (_gather, _reduce))
    rows = Rows(parameter.shape, mesh.size(-1), mesh.get_local_rank(mesh.ndim - 1), dtype, gather, reduce)
    return made_whole(local(parameter), _Copies(rows, mesh) if mesh.ndim > 1 else rows)


class _Copies:
    """What `rows` does where there are several copies of the shards: the mean is that of all copies."""

    def __init__(self, rows: Rows, mesh: DeviceMesh):
        self.gather, self.rows, self.group = rows.gather, rows, mesh.get_group(0)

    def reduce(self, gradient: Tensor) -> Tensor:
        shard = self.rows.reduce(gradient)
        dist.all_reduce(shard, dist.ReduceOp.AVG, self.group)
        return shard


def _gather(found: Tensor, sent: Tensor, group: Any) -> None:
    dist.all_gather_single(found, sent, group=group)


def _reduce(found: Tensor, sent: Tensor, group: Any) -> None:
    dist.reduce_scatter_single(found, sent, op=dist.ReduceOp.AVG, group=group)

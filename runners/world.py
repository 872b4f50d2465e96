"""The processes of a run, as one of them sees them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import Store

from runners.launch import Launch
from runners.meeting import meet

MESSAGE_SECONDS = 1800.0


@dataclass(frozen=True)
class World:
    """One process of a run, its device, the mesh that the state is sharded over, and the store the processes share.

    Alone it has no mesh, no store and no process group, and what it asks of the others it answers itself.
    """

    launch: Launch
    device: torch.device
    mesh: DeviceMesh | None = None
    store: Store | None = None

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.launch.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.launch.size

    @property
    def leads(self) -> bool:
        """Whether this is the one process that prints and writes."""
        return self.launch.leads

    @property
    def pieces(self) -> int:
        """Processes that share one copy of the state."""
        return self.mesh.size(-1) if self.mesh else 1

    @property
    def copies(self) -> int:
        """Copies of the state, each sharded over `pieces` processes."""
        return self.size // self.pieces

    @property
    def piece(self) -> int | None:
        """Number of the piece that this process holds of the first copy; None in the other copies."""
        return self.rank if self.rank < self.pieces else None

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, equal to the bit on each."""
        if self.mesh:
            dist.all_reduce(values)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """The greatest of each value over all processes."""
        if self.mesh:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def most(self, value: int) -> int:
        """The greatest value that any process gave."""
        if not self.mesh:
            return value
        given = torch.tensor(value, device=self.device)
        dist.all_reduce(given, dist.ReduceOp.MAX)
        return int(given)


@contextmanager
def joined(launch: Launch, shard: int | None, timeout_s: float) -> Iterator[World]:
    """The world of this process until the end of the block: gloo on CPUs, nccl between GPUs.

    `shard` processes share one copy of the state; None: all of them. A message that never comes is an error long after
    `timeout_s`, in which the signs of life tell what is the matter.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", launch.local) if cuda else torch.device("cpu")
    if launch.size == 1:
        yield World(launch, device)
        return
    if cuda:
        torch.cuda.set_device(device)
    store, backend = meet(launch), "cpu:gloo,cuda:nccl" if cuda else "gloo"
    timeout = timedelta(seconds=max(MESSAGE_SECONDS, 2 * timeout_s))
    dist.init_process_group(backend, timeout=timeout, world_size=launch.size, rank=launch.rank, store=store)
    try:
        yield World(launch, device, _mesh(launch, device.type, launch.sharing(shard)), store)
    finally:
        dist.destroy_process_group()


def _mesh(launch: Launch, kind: str, pieces: int) -> DeviceMesh:
    if pieces == launch.size:
        return init_device_mesh(kind, (pieces,))
    return init_device_mesh(kind, (launch.size // pieces, pieces), mesh_dim_names=("copy", "shard"))

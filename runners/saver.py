"""Checkpoints written behind the training, from a copy of the state, or while it waits, from the state itself."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any

from torch import Tensor

from blockgraph.kernels.base import full, local
from runners.checkpoint import Checkpoints, Tensors, piece_name
from runners.world import World

WHOLE_BYTES = 2**31  # up to here a sharded state is gathered and written by one process

State = Mapping[str, Mapping[str, Tensor]]


class Saver:
    """Saves one state at a time; a fault of the thread is raised by the next call.

    `saved` is the last step that a checkpoint holds.
    """

    def __init__(self, checkpoints: Checkpoints, world: World, background: bool, saved: int = 0):
        self.checkpoints, self.world, self.background, self.saved = checkpoints, world, background, saved
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._closed = Event()

    def save(self, step: int, tensors: State, facts: dict[str, Any]) -> None:
        """Let the state after `step` be written, from a copy if the training is not to wait; no two at once."""
        self.settle()
        files = stage(tensors, self.world, copy=self.background)
        self._pending = self._thread.submit(self._write, step, files, facts)
        if not self.background:
            self.settle()

    def check(self) -> None:
        """Raise what went wrong in a save that is over, such as `OSError`."""
        if self._pending and self._pending.done():
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is being written; raise what went wrong."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Let a save that is being written come to its end, unless it waits for pieces of other processes."""
        self._closed.set()
        wait([self._pending] if self._pending else [])
        self._thread.shutdown()

    def _write(self, step: int, files: dict[str, Tensors], facts: dict[str, Any]) -> None:
        if self.world.leads:
            self.checkpoints.save(step, files, facts, expected(files, self.world), self._closed)
        else:
            self.checkpoints.deposit(step, files)
        self.saved = step


def stage(tensors: State, world: World, copy: bool = True) -> dict[str, Tensors]:
    """What this process has to write, on the CPU, by the name of the file; copies if what is there may change."""
    size = sum(value.numel() * value.element_size() for group in tensors.values() for value in group.values())
    if world.pieces == 1 or size <= WHOLE_BYTES:
        gathered = {name: _gathered(group, world.leads, copy) for name, group in tensors.items()}
        return gathered if world.leads else {}
    if world.piece is None:
        return {}
    return {piece_name(name, world.piece, world.pieces): _held(group, world, copy) for name, group in tensors.items()}


def expected(files: dict[str, Tensors], world: World) -> list[str]:
    """Names of the files that other processes write beside those of the first one."""
    first = piece_name("", 0, world.pieces)
    names = [name.removesuffix(first) for name in files if name.endswith(first)]
    return [piece_name(name, piece, world.pieces) for name in names for piece in range(1, world.pieces)]


def _gathered(group: Mapping[str, Tensor], keep: bool, copy: bool) -> Tensors:
    """Whole tensors, which all processes have to ask for, although one of them keeps them."""
    wholes = ((name, value, full(value.detach())) for name, value in group.items())
    # A whole that was gathered is a copy by itself.
    return {
        name: whole.to("cpu", copy=copy and whole.shape == local(value).shape) for name, value, whole in wholes if keep
    }


def _held(group: Mapping[str, Tensor], world: World, copy: bool) -> Tensors:
    """This process's shards; what is whole belongs to the first piece."""
    shards = {name: local(value.detach()) for name, value in group.items()}
    return {
        name: shard.to("cpu", copy=copy)
        for name, shard in shards.items()
        if world.leads or shard.shape != group[name].shape
    }

"""What blocks keep of earlier tokens while a model writes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Cache:
    """The rows of `length` tokens in tensors that have room for `capacity`, made when they are first written.

    With `last_only` a model gives the outputs of the last of the new tokens alone, as a long prompt needs.
    """

    def __init__(self, capacity: int):
        self.capacity, self.length, self.last_only = capacity, 0, False
        self.kept: dict[tuple[nn.Module, str], Tensor] = {}
        self.made: dict[tuple[nn.Module, str], Tensor | tuple[Tensor, ...]] = {}

    def keep(self, owner: nn.Module, name: str, rows: Tensor, axis: int) -> Tensor:
        """The rows of all tokens up to the last of the new ones, which are written behind those of earlier ones."""
        count = rows.shape[axis]
        if self.length + count > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} tokens, and these are {self.length + count}")
        if (owner, name) not in self.kept:
            shape = (*rows.shape[:axis], self.capacity, *rows.shape[axis + 1 :])
            self.kept[owner, name] = torch.empty(shape, dtype=rows.dtype, device=rows.device)
        room = self.kept[owner, name]
        room.narrow(axis, self.length, count).copy_(rows)
        return room.narrow(axis, 0, self.length + count)

    def once(self, owner: nn.Module, name: str, make: Callable[[], Tensor | tuple[Tensor, ...]]) -> Any:
        """What is the same for all tokens, computed the first time."""
        if (owner, name) not in self.made:
            self.made[owner, name] = make()
        return self.made[owner, name]

    def asked(self, rows: Tensor, axis: int) -> Tensor:
        """The rows of which outputs are wanted."""
        return rows.narrow(axis, rows.shape[axis] - 1, 1) if self.last_only else rows

    def advance(self, count: int) -> None:
        """Count new tokens as earlier ones, once every block has taken them."""
        self.length += count

    def forget(self, length: int) -> None:
        """Go back to the first so many tokens."""
        assert 0 <= length <= self.length
        self.length = length

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(room.numel() * room.element_size() for room in self.kept.values())

"""Tensors in the files of a checkpoint, of which a process reads the rows that it holds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from blockgraph.kernels.base import local


class Stored(Mapping[str, Tensor]):
    """Tensors in files, read when they are asked for, onto the CPU.

    One that stands in several files was cut along its first axis, in the order of the files. A file is open only while
    it is read, for what is mapped from it counts as memory of the process.
    """

    def __init__(self, files: list[Path]):
        self._holders: dict[str, list[tuple[Path, tuple[int, ...]]]] = {}
        for file in files:
            with _opened(file) as opened:
                for name in sorted(opened.keys()):
                    self._holders.setdefault(name, []).append((file, tuple(opened.get_slice(name).get_shape())))

    def __getitem__(self, name: str) -> Tensor:
        return self.rows(name)

    def shape(self, name: str) -> torch.Size:
        """Shape of a whole tensor, of which nothing is read."""
        shapes = [shape for _, shape in self._holders[name]]
        return torch.Size(shapes[0] and (sum(shape[0] for shape in shapes), *shapes[0][1:]))

    def rows(self, name: str, start: int = 0, end: int | None = None) -> Tensor:
        """The rows from `start` on, up to `end`; what has no axis is one whole."""
        holders, shape = self._holders[name], self.shape(name)
        if not shape:
            return _rows(holders[0][0], name, ...)
        parts: list[Tensor] = []
        first = 0
        for file, (rows, *_) in holders:
            found = range(max(start - first, 0), rows if end is None else min(end - first, rows))
            # Where there are no rows at all, the last file tells of what kind they are.
            if found or (not parts and file is holders[-1][0]):
                parts.append(_rows(file, name, slice(found.start, found.stop) if found else slice(0, 0)))
            first += rows
        return torch.cat(parts)

    def fill(self, x: Tensor, name: str) -> None:
        """Set a tensor, or this process's shard of it, from the one of this name."""
        local(x).copy_(self.rows(name, *_held(x)))

    def __contains__(self, name: object) -> bool:
        return name in self._holders  # a Mapping's own way is to read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def __len__(self) -> int:
        return len(self._holders)


def _opened(file: Path) -> Any:
    return safe_open(file, "pt")


def _rows(file: Path, name: str, rows: Any) -> Tensor:
    """A copy, so that the file can be closed."""
    with _opened(file) as opened:
        found: Tensor = opened.get_slice(name)[rows]
        return found.clone()


def _held(x: Any) -> tuple[int, int | None]:
    """First and last row of a tensor that this process holds; FSDP2 cuts the first axis."""
    if not hasattr(x, "full_tensor") or not x.placements[-1].is_shard():
        return 0, None
    size = -(-x.shape[0] // x.device_mesh.size(-1))
    start = min(x.shape[0], size * x.device_mesh.get_local_rank(-1))
    return start, min(x.shape[0], start + size)

"""What the state of a run takes of this machine's memory, and what follows where that is much."""

import os
from dataclasses import dataclass

from runners.config import Checkpoint

COPY_BYTES = 12  # of a parameter in a checkpoint: the weight and two moments, in fp32
SHARE = 4  # a quarter of the memory is the most that a copy of the state may take


@dataclass(frozen=True)
class Room:
    """Bytes that a copy of the state takes, those of all processes of this machine together, and of its memory."""

    copy: int
    memory: int

    @property
    def tight(self) -> bool:
        """Whether memory is kept free rather than used to save time."""
        return SHARE * self.copy > self.memory

    def behind(self, asked: Checkpoint) -> bool:
        """Whether checkpoints are written behind the training, from a copy."""
        return not self.tight if asked.background == "auto" else asked.background

    def told(self, asked: Checkpoint) -> str:
        """How checkpoints are written and why so, in words."""
        how = "behind the training, from a copy" if self.behind(asked) else "while the training waits"
        why = f"a copy of the state takes {_gib(self.copy)} of {_gib(self.memory)}"
        return f"{how} ({f'auto: {why}' if asked.background == 'auto' else 'as asked for'})"


def room(parameters: int, pieces: int, here: int) -> Room:
    """The room of `here` processes of this machine, each with one of `pieces` of the state."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Room(COPY_BYTES * parameters * here // pieces, memory)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"

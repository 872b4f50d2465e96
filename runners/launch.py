"""Place of this process among those of a run, as torchrun tells it in the environment."""

import os
from dataclasses import dataclass

from blockgraph.errors import Problems
from runners.runfile import RunFile

TORCHRUN = "TORCHELASTIC_RUN_ID"
PLACE = {
    "RANK": 0,
    "LOCAL_RANK": 0,
    "WORLD_SIZE": 1,
    "LOCAL_WORLD_SIZE": 0,
}  # what torchrun sets, and what holds without it


@dataclass(frozen=True)
class Launch:
    """One process of `size`: its number, its number on this machine, and the process of torchrun, 0 without one.

    `here` of them run on this machine.
    """

    rank: int = 0
    local: int = 0
    size: int = 1
    parent: int = 0
    here: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that prints and writes."""
        return self.rank == 0

    def refuse(self, run: RunFile) -> None:
        """Raise `SpecError` when the run cannot be divided among this many processes."""
        problems, train = Problems(), run.config.train
        if train.batch % self.size:
            message = f"train.batch: {train.batch} sequences do not divide among {self.size} processes"
            problems.add(message, run.place("train.batch"))
        if self.size % self.sharing(train.shard):
            message = f"train.shard: {self.size} processes do not divide into groups of {train.shard}"
            problems.add(message, run.place("train.shard"))
        problems.stop_if_any()

    def sharing(self, shard: int | None) -> int:
        """Processes that share one copy of the state; the file of a cluster also runs on fewer."""
        return min(shard or self.size, self.size)


def launched() -> Launch:
    """What torchrun has set; without it, one process."""
    rank, local, size, here = (int(os.environ.get(name, least)) for name, least in PLACE.items())
    return Launch(rank, local, size, os.getppid() if TORCHRUN in os.environ else 0, here or size)

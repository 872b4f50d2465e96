"""Signs of life that the processes of a run give, and what they tell about the one that is at fault."""

import time
from dataclasses import dataclass, field

Signs = dict[int, "Sign"]  # by rank


@dataclass(frozen=True)
class Sign:
    """What a process says of itself: how often it has, the collectives that it has entered, and why it left."""

    pid: int
    host: str
    beat: int = 0
    arrived: int = 0
    compiling: bool = False
    left: str | None = None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Verdict:
    """Why a run ends, in words, the rank that tells it, and the process numbers of those that are lost.

    Nobody tells it when the first process has left by itself, which then has told why.
    """

    told: str
    teller: int | None
    lost: list[int]


@dataclass
class Still:
    """For how many seconds a value has been the same; it is looked at once in each `period`.

    Seconds in which this process was itself stopped, as by Ctrl-Z, are left out: it has waited for nobody then.
    """

    period: float
    seconds: float = 0.0
    at: float = field(default_factory=time.monotonic)
    value: object = None

    def take(self, value: object) -> None:
        """Take in the value of now."""
        now = time.monotonic()
        self.seconds = self.seconds + min(now - self.at, 2 * self.period) if value == self.value else 0.0
        self.at, self.value = now, value


def silent(before: Signs, now: Signs) -> list[int]:
    """Processes that gave no sign between two readings, although they have not left."""
    return [rank for rank, sign in before.items() if sign == now[rank] and sign.left is None]


def late(before: Signs, now: Signs) -> list[int]:
    """Processes that have not moved on between two readings, while others wait where these have not arrived.

    One that compiles is never late.
    """
    places = [sign.arrived for sign in now.values()]
    behind = [rank for rank, sign in now.items() if before[rank].arrived == sign.arrived == min(places) < max(places)]
    return [rank for rank in behind if not now[rank].compiling]


def waited_in_vain(before: Signs, now: Signs, seconds: float) -> dict[int, str]:
    """Who is at fault, and how, when nothing went on for this long."""
    if faults := dict.fromkeys(silent(before, now), f"gave no sign of life for {seconds:g} s"):
        return faults
    return dict.fromkeys(late(before, now), f"did not arrive where others wait for it, in {seconds:g} s")


def broken_off(before: Signs, now: Signs) -> dict[int, str]:
    """Who is at fault, and how, when a message to another process failed."""
    return gone(now) or dict.fromkeys(silent(before, now), "is gone")


def gone(now: Signs) -> dict[int, str]:
    """Who has left the run, and why."""
    return {rank: f"left the run: {sign.left}" for rank, sign in now.items() if sign.left is not None}

"""What probed steps cost, next to the steps before them."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

KEPT = 1000  # newest probed steps that are told of
NEAR = 9  # plain steps before a probed one, with which it is compared
LEAST = 3  # of either kind


def timer(device: str) -> Callable[[], float]:
    """The clock of the comparison: on a CPU the processor time, which other programs do not lengthen."""
    return time.process_time if device == "cpu" else time.perf_counter


@dataclass
class Overhead:
    """Seconds of probed steps and of plain ones shortly before, so that a machine that slows down slows both.

    The first step of each kind, which warms up or compiles, is left out.
    """

    near: deque[float] = field(default_factory=lambda: deque(maxlen=NEAR))
    pairs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    counts: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def add(self, seconds: float, probed: bool) -> None:
        """Take in a step."""
        self.counts[probed] += 1
        if self.counts[probed] == 1:
            return
        if not probed:
            self.near.append(seconds)
        elif len(self.near) >= LEAST:
            self.pairs.append((seconds, median(self.near)))

    @property
    def text(self) -> str:
        """Share of all steps, and of a probed one, by the medians; too few steps say nothing."""
        if len(self.pairs) < LEAST:
            return ""
        probed, plain = (median(each) for each in zip(*self.pairs, strict=True))
        extra = max(0.0, median(one - other for one, other in self.pairs))
        share = self.counts[True] * extra / (self.counts[True] * probed + self.counts[False] * plain)
        return f"probes: {share:.1%} of the run, {extra / probed:.0%} of a probed step (median of {len(self.pairs)})"

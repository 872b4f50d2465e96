"""What probed steps cost, next to the steps between them."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

KEPT = 1000  # newest steps of either kind that are compared
LEAST = 3  # of either kind


@dataclass
class Overhead:
    """Seconds of plain and of probed steps; the first of each kind, which warm up or compile, are left out."""

    plain: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    probed: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    counts: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def add(self, seconds: float, probed: bool) -> None:
        """Take in a step."""
        self.counts[probed] += 1
        if self.counts[probed] > 1:
            (self.probed if probed else self.plain).append(seconds)

    @property
    def text(self) -> str:
        """Share of all steps, and of a probed one, by the medians; too few steps say nothing."""
        if min(len(self.plain), len(self.probed)) < LEAST:
            return ""
        plain, probed = median(self.plain), median(self.probed)
        extra = max(0.0, probed - plain)
        whole = self.counts[True] * probed + self.counts[False] * plain
        share = self.counts[True] * extra / whole
        return f"probes: {share:.1%} of the run, {extra / probed:.0%} of a probed step"

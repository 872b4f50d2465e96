"""How far a step stands out of those before it, in robust standard deviations."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

WINDOW = 128  # accepted values that a new one is compared with
LEAST = 16  # of them before anything is called a spike
SIGMA = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
LOSS_FLOOR, NORM_FLOOR = 0.01, 0.25  # smallest spread that counts, as a part of the median


@dataclass
class Window:
    """The last accepted values of one series. Whatever is rejected stays outside, so it cannot hide what follows.

    `floor` bounds the spread from below, or else a window of equal values would call every change a spike. A level
    that lasts is no spike: when `WINDOW` finite values in a row were rejected, the window begins again.
    """

    floor: float
    values: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    rejected: int = 0

    def score(self, value: float) -> float:
        """Robust z: distance above the median in spreads; 0 for the first values and for what is not finite."""
        if len(self.values) < LEAST or not math.isfinite(value):
            return 0.0
        middle = median(self.values)
        spread = SIGMA * median(abs(other - middle) for other in self.values)
        return (value - middle) / max(spread, self.floor * abs(middle), math.ulp(1.0))

    def take(self, value: float, accepted: bool) -> None:
        """Remember a value if it was accepted; what is not finite leaves no trace."""
        if not math.isfinite(value):
            return
        self.rejected = 0 if accepted else self.rejected + 1
        if self.rejected == WINDOW:
            self.values.clear()
            self.rejected = 0
        elif accepted:
            self.values.append(value)

    def state(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        return {"values": list(self.values), "rejected": self.rejected}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.values, self.rejected = deque(state["values"], maxlen=WINDOW), state["rejected"]


class Spikes:
    """The spike score of a run: the larger one of loss and gradient norm, each in a window of its own."""

    def __init__(self, z: float):
        self.z = z
        self.windows = {"loss": Window(LOSS_FLOOR), "gradient norm": Window(NORM_FLOOR)}
        self.count = self.in_a_row = 0

    def reason(self, loss: float, norm: float) -> str:
        """Which of the two is a spike, in words, or nothing. Remembers nothing."""
        for (name, window), value in zip(self.windows.items(), (loss, norm), strict=True):
            score = window.score(value)
            if score > self.z:
                return f"the {name}, {value:.4g}, is {score:.3g} robust deviations above its median"
        return ""

    def take(self, loss: float, norm: float) -> str:
        """Take in a step: `reason`, counted."""
        reason = self.reason(loss, norm)
        finite = math.isfinite(loss) and math.isfinite(norm)
        for window, value in zip(self.windows.values(), (loss, norm), strict=True):
            window.take(value, finite and window.score(value) <= self.z)
        self.count += bool(reason)
        self.in_a_row = self.in_a_row + 1 if reason else 0
        return reason

    def state(self) -> dict[str, Any]:
        """What the score remembers, for a checkpoint."""
        windows = {name: window.state() for name, window in self.windows.items()}
        return {"windows": windows, "count": self.count, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name, window in self.windows.items():
            window.restore(state["windows"][name])
        self.count, self.in_a_row = state["count"], state["in_a_row"]

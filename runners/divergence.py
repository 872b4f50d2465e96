"""When a training loss that is still finite counts as diverged."""

from dataclasses import dataclass
from typing import Any

from runners.config import Diverged

SMOOTHING = 0.9


@dataclass
class Divergence:
    """The rule `loss_above`: the smoothed loss stands above a bound for `window` steps in a row.

    The smoothed loss is s <- 0.9 s + 0.1 loss, started at the loss of the first step. What the rule remembers is
    part of every checkpoint, so a resumed run reaches the same verdict at the same step.
    """

    rule: Diverged
    first: float | None = None
    smoothed: float = 0.0
    above: int = 0

    def verdict(self, loss: float) -> str:
        """Take in the loss of the next step; the reason to end the run, or nothing."""
        if self.first is None:
            self.first = self.smoothed = loss
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self.above = self.above + 1 if self.smoothed > self.bound else 0
        if not self.rule.window or self.above < self.rule.window:
            return ""
        return f"the smoothed loss, {self.smoothed:.4g}, was above {self.bound:.4g} for {self.above} steps in a row"

    @property
    def bound(self) -> float:
        """The loss, in nats, that a healthy run stays below."""
        assert self.first is not None
        return self.first + self.rule.margin if self.rule.loss_above is None else self.rule.loss_above

    def state(self) -> dict[str, Any]:
        """What the rule remembers, for a checkpoint."""
        return {"first": self.first, "smoothed": self.smoothed, "above": self.above}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.first, self.smoothed, self.above = state["first"], state["smoothed"], state["above"]

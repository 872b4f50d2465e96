"""What is wrong with a step, and what a run has done about such steps so far."""

from dataclasses import dataclass
from typing import Any

from runners.config import Train
from runners.divergence import Divergence
from runners.spike import Spikes
from runners.trainer import Step


@dataclass(frozen=True)
class Fault:
    """The rule that a step broke, and how, in words."""

    rule: str
    reason: str


class Watch:
    """Judges every step before it is taken. All that it remembers is in each checkpoint.

    What is not finite is a fault always; a spike is one where the run is to skip it or to go back.
    """

    def __init__(self, config: Train):
        self.config = config
        self.loss_above, self.spikes = Divergence(config.diverged), Spikes(config.diverged.spike.z)
        self.skipped = self.skipped_in_a_row = 0

    def accepts(self, step: Step) -> bool:
        """Whether the update of the step may be applied."""
        return self.fault(step) is None

    def fault(self, step: Step) -> Fault | None:
        """What keeps the step from being taken. Remembers nothing, so it may be asked twice."""
        if step.fault:
            return Fault("non_finite", step.fault)
        reason = "" if self.config.on_fault == "stop" else self.spikes.reason(step.loss, step.grad_norm)
        return Fault("spike", f"step {step.number}: {reason}") if reason else None

    def skip(self, step: Step) -> bool:
        """Take in a step that was left out; whether the run may go on without it."""
        self.spikes.take(step.loss, step.grad_norm)
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        return self.skipped_in_a_row <= self.config.skips

    def verdict(self, step: Step) -> Fault | None:
        """Take in a step that was taken; why the run ends with it, if it does."""
        self.skipped_in_a_row = 0
        reason, spike = self.loss_above.verdict(step.loss), self.spikes.take(step.loss, step.grad_norm)
        if reason:
            return Fault("loss_above", reason)
        most = self.config.diverged.spike.in_a_row
        told = f"step {step.number} is spike {self.spikes.in_a_row} in a row: {spike}"
        return Fault("spike", told) if most and self.spikes.in_a_row >= most else None

    @property
    def counts(self) -> dict[str, int]:
        """Spikes seen and updates left out since the run began."""
        return {"spikes": self.spikes.count, "skipped": self.skipped}

    def state(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""
        skips = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return {"loss_above": self.loss_above.state(), "spikes": self.spikes.state()} | skips

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.loss_above.restore(state["loss_above"])
        self.spikes.restore(state["spikes"])
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]

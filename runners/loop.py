"""The steps of a run, with what is logged, validated and saved between them."""

import math
import signal
import time
from dataclasses import dataclass

from runners.checkpoint import Checkpoint
from runners.divergence import Divergence
from runners.metrics import Metrics
from runners.outcome import Outcome, held_out, validation
from runners.progress import Progress, clock
from runners.saver import Saver
from runners.schedule import factor
from runners.speed import Pace
from runners.stop import Stop
from runners.trainer import Step, Trainer


@dataclass
class Loop:
    """A run being trained; `inputs` are the digests that a checkpoint keeps of what it was trained from.

    `done` is the last step taken. All processes of a run go through the same loop; the first one logs.
    """

    trainer: Trainer
    metrics: Metrics
    saver: Saver
    progress: Progress
    pace: Pace
    bytes_per_token: float
    inputs: dict[str, str]
    done: int = 0

    def __post_init__(self) -> None:
        self.config, self.world = self.trainer.config, self.trainer.world
        self.divergence = Divergence(self.config.train.diverged)
        self.first, self.began = 0, 0.0

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.trainer.restore(saved.tensors("model"), saved.tensors("optim"))
        self.divergence.restore(saved.state["divergence"])
        self.done = saved.step

    def run(self, stop: Stop) -> Outcome:
        """Train to the last step, or to the first reason to end before it."""
        self.first, self.began = self.done, time.perf_counter()
        outcome = None if not self._is_last else Outcome("finished", self.done)
        while not outcome:
            self.saver.check()
            outcome = self._advance() or self._after(self._wish(stop))
        self.saver.settle()
        return outcome

    def _wish(self, stop: Stop) -> str:
        """The signal that any process was sent, so that all of them stop after the same step."""
        number = self.world.most(signal.Signals[stop.requested] if stop.requested else 0)
        return signal.Signals(number).name if number else ""

    def _after(self, wish: str) -> Outcome | None:
        """Save where it is due or wished for; how the run ends here, if it does."""
        if wish or self._is_due(self.config.checkpoint.every):
            self._save()
        if self._is_last:
            return Outcome("finished", self.done)
        return Outcome("stopped", self.done, {"reason": wish}) if wish else None

    def _advance(self) -> Outcome | None:
        """Take a step, validate where it is due and log; how the run ends there, if it does."""
        began = time.perf_counter()
        step = self.trainer.step(self.done + 1)
        self.pace.add(time.perf_counter() - began)
        if step.fault:
            return self._diverged("non_finite", step.fault)
        self.done = step.number
        if self.done == self.first + 1:
            self.began = time.perf_counter()  # the first step alone compiles and warms up
        if reason := self.divergence.verdict(step.loss):
            self._log(step, {}, due=True)
            return self._diverged("loss_above", reason)
        if self._is_due(self.config.log.evaluate):
            return self._validate(step)
        self._log(step, {})
        return None

    def _validate(self, step: Step) -> Outcome | None:
        loss = self.trainer.evaluate()
        if not math.isfinite(loss):
            return self._diverged("non_finite", f"the validation loss is {loss}")
        facts = validation(loss, self.bytes_per_token)
        self._log(step, facts, due=True)
        self.progress.say(f"step {step.number}: {held_out(facts)}")
        return None

    def _diverged(self, rule: str, reason: str) -> Outcome:
        return Outcome("diverged", self.done, {"rule": rule, "reason": reason})

    def _log(self, step: Step, facts: dict[str, float], due: bool = False) -> None:
        due = due or step.number == 1 or self._is_due(self.config.log.every)
        self.progress.step(step.number, self._line(step), due)
        if due:
            if self.world.leads:
                self.metrics.append(self._row(step) | facts)
            self.pace.restart()

    def _row(self, step: Step) -> dict[str, float]:
        z_loss = {"z_loss": step.z_loss} if self.config.optim.z_loss else {}
        return {
            "step": step.number,
            "loss": step.loss,
            "grad_norm": step.grad_norm,
            "lr": self.config.optim.lr * factor(self.config, step.number),
            "tokens": step.number * self.pace.tokens_per_step,
            "tokens_per_s": round(self.pace.tokens_per_s, 1),
        } | z_loss

    def _line(self, step: Step) -> str:
        steps = self.config.train.steps
        where = f"step {step.number:>{len(str(steps))}}/{steps}  loss {step.loss:.4f}  grad {step.grad_norm:.3g}"
        return f"{where}  {self.pace.tokens_per_s:,.0f} tok/s  {self.pace.share:.1%} of peak{self._left()}"

    def _left(self) -> str:
        """Time left at the rate since the first step, validations and checkpoints counted."""
        timed = self.done - self.first - 1
        if not timed:
            return ""
        seconds = (time.perf_counter() - self.began) / timed * (self.config.train.steps - self.done)
        return f"  {clock(seconds)} left"

    def _save(self) -> None:
        """Save the state after the last step; the rows before it are on the disk first."""
        if self.world.leads:
            self.metrics.sync()
        state = {"inputs": self.inputs, "divergence": self.divergence.state()}
        self.saver.save(self.done, self.trainer.tensors(), state)

    @property
    def _is_last(self) -> bool:
        return self.done == self.config.train.steps

    def _is_due(self, every: int) -> bool:
        return self.done % every == 0 or self._is_last

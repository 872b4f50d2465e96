"""The steps of a run, with what is logged, validated and saved between them."""

import math
import signal
import time
from dataclasses import dataclass
from typing import Any

from blockgraph.losses import has_losses
from runners.checkpoint import Checkpoint
from runners.metrics import Metrics, events
from runners.outcome import Outcome, held_out, validation
from runners.overhead import Overhead, timer
from runners.passed import Interval, batch_of
from runners.progress import Progress, clock
from runners.rundir import METRICS
from runners.saver import Saver
from runners.schedule import factor
from runners.speed import Pace
from runners.stop import Stop
from runners.trainer import Step, Trainer
from runners.watch import Fault, Watch


@dataclass
class Loop:
    """A run being trained; `inputs` are the digests that a checkpoint keeps of what it was trained from.

    `done` is the last step taken, `kept` the last one handed to the saver. All processes of a run go through the same
    loop; the first one logs.
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
        self.watch = Watch(self.config.train)
        self.passed = self._passed([])
        self.first, self.began, self.kept = 0, 0.0, 0
        self.overhead, self.probed = Overhead(), dict[str, float]()
        self.timer = timer(self.world.device.type)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.trainer.restore(saved.tensors("model"), saved.tensors("optim"))
        self.watch.restore(saved.state["watch"])
        self.done = self.kept = saved.step
        self.passed = self._passed(saved.state["passed"])

    def run(self, stop: Stop) -> Outcome:
        """Train to the last step, or to the first reason to end before it."""
        self._begin()
        if self._goes_back and not self.done:
            self._save()
        outcome = None if not self._is_last else Outcome("finished", self.done, self.counts)
        while not outcome:
            self.saver.check()
            outcome = self._advance() or self._after(self._wish(stop))
        self.saver.settle()
        if self.overhead.text:
            self.progress.say(self.overhead.text)
        self.world.most(0)  # a launcher ends all processes as soon as one has stopped: none before all are done
        return outcome

    @property
    def counts(self) -> dict[str, int]:
        """What went wrong since the run began, and what was done about it."""
        return self.watch.counts | {"rollbacks": len(self.passed)}

    @property
    def _goes_back(self) -> bool:
        return self.config.train.on_fault == "rollback"

    def _passed(self, saved: list[Interval]) -> list[Interval]:
        """Batches to pass over; going back is logged before it is saved, so the log may know of one more.

        Every process reads the log of the first one; the rows after this step may be gone from it or not.
        """
        log = self.saver.checkpoints.path.with_name(METRICS)
        found = events(log) if log.exists() else []
        logged = [event["passed"] for event in found if event["step"] <= self.done]
        return [(first, end) for first, end in max([saved, *logged], key=len)]

    def _begin(self) -> None:
        """Measure the time left from here."""
        self.first, self.began = self.done, time.perf_counter()

    def _wish(self, stop: Stop) -> str:
        """The signal that any process was sent, so that all of them stop after the same step."""
        number = self.world.most(signal.Signals[stop.requested] if stop.requested else 0)
        return signal.Signals(number).name if number else ""

    def _after(self, wish: str) -> Outcome | None:
        """Save where it is due or wished for; how the run ends here, if it does."""
        if self.done != self.kept and (wish or self._is_due(self.config.checkpoint.every)):
            self._save()
        if self._is_last:
            return Outcome("finished", self.done, self.counts)
        return Outcome("stopped", self.done, {"reason": wish} | self.counts) if wish else None

    def _advance(self) -> Outcome | None:
        """Take a step, validate where it is due and log; how the run ends there, if it does."""
        began, opened = time.perf_counter(), self.timer()
        number = self.done + 1
        if self._is_probed(number):
            self.trainer.probing.start()
        step = self.trainer.step(number, batch_of(number, self.passed), self.watch.accepts)
        self.probed = self.trainer.probing.finish()
        seconds = time.perf_counter() - began
        self.pace.add(seconds)
        self.overhead.add(self.timer() - opened, bool(self.probed))
        if fault := self.watch.fault(step):
            return self._answer(step, fault)
        self._count(step)
        if ended := self.watch.verdict(step):
            self._log(step, {}, due=True)
            return self._diverged(ended)
        return self._report(step, {})

    def _is_probed(self, number: int) -> bool:
        log, steps = self.config.log, self.config.train.steps
        return bool(log.probes) and (number == 1 or number % log.probe == 0 or number == steps)

    def _count(self, step: Step) -> None:
        self.done = step.number
        if self.probed:
            self.metrics.record(step.number, self.probed)
        if self.done == self.first + 1:
            self.began = time.perf_counter()  # the first step alone compiles and warms up

    def _answer(self, step: Step, fault: Fault) -> Outcome | None:
        """What the run is asked to do about a step that must not be taken."""
        if self._goes_back and len(self.passed) < self.config.train.rollback.most:
            return self._go_back(step, fault)
        if self.config.train.on_fault != "skip" or not self.watch.skip(step):
            return self._diverged(fault)
        self._count(step)
        self.progress.say(f"step {step.number} is skipped: {fault.reason}")
        return self._report(step, {"why_skipped": fault.reason})

    def _go_back(self, step: Step, fault: Fault) -> Outcome | None:
        """Go on from an earlier checkpoint, with other data; the schedule goes back with the weights."""
        rule, passed = self.config.train.rollback, self.passed
        saved = self._earlier(max(0, step.number - rule.steps))
        if not saved:
            return self._diverged(fault)
        at = batch_of(step.number, passed)
        batches = max(batch_of(saved.step + 1, passed), at - rule.before), at + rule.after + 1
        facts = {"step": saved.step, "event": "rollback", "from": step.number, "passed": [*passed, batches]}
        if self.world.leads:
            self.metrics.rewind(facts | {"rule": fault.rule, "reason": fault.reason})
        self.restore(saved)
        self.passed = [*passed, batches]
        self._begin()
        told = f"batches {batches[0]} to {batches[1] - 1} are passed over"
        self.progress.say(f"{fault.reason}; back to step {saved.step}, {told}")
        return None

    def _earlier(self, step: int) -> Checkpoint | None:
        """The checkpoint to go back to; one process chooses it, and the others are told."""
        self.saver.settle()
        checkpoints = self.saver.checkpoints
        found = checkpoints.back_to(step, self.progress.say) if self.world.leads else None
        self.saver.saved = self.world.most(found.step if found else -1)
        return checkpoints.at(self.saver.saved) if self.saver.saved >= 0 else None

    def _report(self, step: Step, facts: dict[str, Any]) -> Outcome | None:
        """Log, with a validation where one is due."""
        if not self._is_due(self.config.log.evaluate):
            self._log(step, facts, due=bool(facts))
            return None
        loss = self.trainer.evaluate()
        if not math.isfinite(loss):
            return self._diverged(Fault("non_finite", f"the validation loss is {loss}"))
        found = validation(loss, self.bytes_per_token)
        self._log(step, facts | found, due=True)
        self.progress.say(f"step {step.number}: {held_out(found)}")
        return None

    def _diverged(self, fault: Fault) -> Outcome:
        return Outcome("diverged", self.done, {"rule": fault.rule, "reason": fault.reason} | self.counts)

    def _log(self, step: Step, facts: dict[str, Any], due: bool = False) -> None:
        due = due or step.number == 1 or self._is_due(self.config.log.every)
        self.progress.step(step.number, self._line(step), due)
        if due:
            if self.world.leads:
                self.metrics.append(self._row(step) | facts)
            self.pace.restart()

    def _row(self, step: Step) -> dict[str, Any]:
        others = {"z_loss": _known(step.z_loss)} if self.config.optim.z_loss else {}
        others |= {"own_loss": _known(step.own_loss)} if has_losses(self.trainer.model.graph) else {}
        counts = {name: count for name, count in self.counts.items() if count}
        return (
            {
                "step": step.number,
                "loss": _known(step.loss),
                "grad_norm": _known(step.grad_norm),
                "lr": self.config.optim.lr * factor(self.config, step.number),
                "tokens": step.number * self.pace.tokens_per_step,
                "tokens_per_s": round(self.pace.tokens_per_s, 1),
            }
            | others
            | counts
        )

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
        self.kept = self.done
        state = {"inputs": self.inputs, "watch": self.watch.state(), "passed": self.passed}
        self.saver.save(self.done, self.trainer.tensors(), state)

    @property
    def _is_last(self) -> bool:
        return self.done == self.config.train.steps

    def _is_due(self, every: int) -> bool:
        return self.done % every == 0 or self._is_last


def _known(value: float) -> float | None:
    """The value, or null where JSON has no word for it."""
    return value if math.isfinite(value) else None

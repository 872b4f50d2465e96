"""Runs in processes forked from one that has loaded everything, which takes 0.03 s in place of 4."""

import os
import signal
import time
from pathlib import Path

from train_case import train

from runners.checkpoint import Checkpoints
from runners.studies.fork import forked


class Child:
    """`blockgraph train` in a forked process of its own group; all that it says goes to `told`."""

    def __init__(self, run: Path, out: Path, *overrides: str, gate: int | None = None, log: str = "log"):
        self.out, self.overrides = out, overrides
        self._log = run.parent / f"{out.name}.{log}"
        self._saving, saving = os.pipe()
        self._log.unlink(missing_ok=True)
        self.began = time.perf_counter()
        self.pid = forked(lambda: self._work(run, gate, saving), self._log)
        os.close(saving)

    def _work(self, run: Path, gate: int | None, saving: int) -> int:
        _tell_of_saves(saving)
        if gate is not None:
            os.read(gate, 1)
        return train(run, self.out, *self.overrides)

    def kill_after(self, seconds: float) -> None:
        """Kill -9, unless it has ended by then."""
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)

    def kill_in_save(self, number: int, seconds: float) -> None:
        """Kill -9 this long after it began to save for the `number`th time."""
        for _ in range(number):
            self.wait_for_save()
        self.kill_after(seconds)

    def wait_for_save(self) -> None:
        """Wait until it begins to save."""
        os.read(self._saving, 1)

    def wait(self) -> int:
        """Exit code; minus the signal's number when one ended it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._saving)
        return code

    @property
    def told(self) -> str:
        """What it said so far."""
        return self._log.read_text()


def _tell_of_saves(pipe: int) -> None:
    real = Checkpoints.save

    def save(self, *arguments):
        os.write(pipe, b"s")
        return real(self, *arguments)

    Checkpoints.save = save

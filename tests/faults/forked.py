"""Runs in processes forked from one that has loaded everything, which takes 0.03 s in place of 4."""

import os
import signal
import sys
import time
from pathlib import Path

from train_case import train

from runners.checkpoint import Checkpoints


class Child:
    """`blockgraph train` in a forked process of its own group; all that it says goes to `told`."""

    def __init__(self, run: Path, out: Path, *overrides: str, gate: int | None = None, log: str = "log"):
        self.out, self.overrides = out, overrides
        self._log = run.parent / f"{out.name}.{log}"
        self._saving, saving = os.pipe()
        self.began = time.perf_counter()
        self.pid = os.fork()
        if not self.pid:
            self._child(run, gate, saving)
        os.close(saving)

    def _child(self, run: Path, gate: int | None, saving: int) -> None:
        try:
            os.setpgid(0, 0)
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
            _tell_of_saves(saving)
            if gate is not None:
                os.read(gate, 1)
            code = train(run, self.out, *self.overrides)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = 99
        os._exit(code)

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

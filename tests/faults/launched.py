"""Runs on two processes under torchrun, and what is done to them from outside."""

import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

LIMIT = 240.0  # seconds for anything that is waited for


class Launched(AbstractContextManager["Launched"]):
    """torchrun with two processes; what they say goes to a file. Nothing of it is left behind."""

    def __init__(self, run: Path, out: Path, *overrides: str, restarts: int = 0):
        self.out, self.log = out, out.with_name(f"{out.name}.{time.monotonic_ns()}.log")
        words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "-m", "runners.train"]
        command = [sys.executable, "-m", "torch.distributed.run", *words, str(run), *overrides, "--out", str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._seen: set[int] = set()
        with self.log.open("w") as log:
            self.agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def __exit__(self, *_: object) -> None:
        for pid in {*self.workers, *self._seen, self.agent.pid}:
            send(pid, signal.SIGKILL)
        self.agent.wait()

    @property
    def told(self) -> str:
        """What all of its processes said."""
        return self.log.read_text()

    @property
    def workers(self) -> list[int]:
        """The processes that train, in the order of their ranks."""
        numbers = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        found = sorted(pid for pid in numbers if _status(pid)[1:2] == [str(self.agent.pid)])
        self._seen |= {*found}  # without torchrun they would no longer be found
        return found

    @property
    def rows(self) -> int:
        """Steps logged so far."""
        path = self.out / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def until(self, condition, pause: float = 0.01) -> list[int]:
        """The workers, as soon as the condition holds."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert self.agent.poll() is None, self.told
            assert time.monotonic() < end, self.told
            time.sleep(pause)
        return self.workers

    def until_row(self, number: int) -> list[int]:
        """The workers, as soon as that many steps are logged."""
        return self.until(lambda: self.rows >= number)

    def until_save(self) -> list[int]:
        """The workers, while a checkpoint is being written."""
        workers = self.until(lambda: len(self.workers) == 2)
        self.until(lambda: any(self.out.glob("checkpoints/step-*.tmp*")), pause=0)
        return workers

    def until_told(self, words: str) -> float:
        """How long it takes until it has said that."""
        began = time.monotonic()
        self.until(lambda: words in self.told)
        return time.monotonic() - began

    def wait(self) -> int:
        """Exit code of torchrun; minus the signal's number when one ended it."""
        return self.agent.wait(LIMIT)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    if alive(pid):
        os.kill(pid, number)


def alive(pid: int) -> bool:
    """Whether a process runs, or is stopped; one that only waits to be buried does not."""
    return _status(pid)[:1] not in ([], ["Z"])


def seconds_until_gone(pids: list[int]) -> float:
    """How long it takes until none of the processes is left."""
    began = time.monotonic()
    while any(map(alive, pids)):
        assert time.monotonic() - began < LIMIT, f"still there: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)
    return time.monotonic() - began


def _status(pid: int) -> list[str]:
    """State and parent of a process, as Linux tells them; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []

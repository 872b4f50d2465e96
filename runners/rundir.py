"""The directory of a run: one writer at a time, every file whole."""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import LEFTOVER, save

LOCK = "run.lock"
RUN = "run.yaml"
MODEL = "model.yaml"
STATUS = "status.json"
METRICS = "metrics.jsonl"
LOOKS, LOOK_SECONDS = 10, 0.01  # at a lock before it counts as taken: to ask who has it takes it for a moment


@dataclass(frozen=True)
class RunDir:
    """Where a run writes; its lock is held for as long as `claim` is open. Not all processes of a run write."""

    path: Path
    writes: bool = True

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of the series."""
        return self.path / METRICS

    @property
    def started(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / RUN).exists()

    def write(self, name: str, data: str | bytes) -> None:
        """Write a file whole, if this process is the one that writes."""
        if self.writes:
            save(self.path / name, data)

    def set_status(self, state: str, step: int, **facts: Any) -> None:
        """Say how far the run is: running, finished, diverged, stopped or failed, with facts such as the reason.

        A run that was killed still says `running`; nobody then holds its lock.
        """
        status = {"state": state, "step": step} | facts | {"host": socket.gethostname(), "pid": os.getpid()}
        self.write(STATUS, json.dumps(status, indent=1) + "\n")

    def status(self) -> dict[str, Any]:
        """What `set_status` wrote last; empty before the first time."""
        path = self.path / STATUS
        try:
            status: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        except ValueError:
            raise refuse(path, "not what was written", "remove it, and the run goes on from its checkpoint") from None
        return status


class Taken(SpecError):
    """Another process writes the directory."""


@contextmanager
def claim(path: Path) -> Iterator[RunDir]:
    """A run directory that nobody else writes until the end of the block.

    It is made where there is none, and removed again when no run began in it. Raises `Taken` when another process has
    it, and `SpecError` when it holds something else than a run.
    """
    made = not path.exists()
    handle = lock(path, LOCK, "run")
    run = RunDir(path)
    for leftover in path.glob(LEFTOVER):
        leftover.unlink()
    try:
        if not run.started and any(entry.name != LOCK for entry in path.iterdir()):
            raise refuse(path, "the directory holds something else than a run", "name another with --out")
        yield run
    finally:
        if made and not run.started:
            (path / LOCK).unlink()
            path.rmdir()
        os.close(handle)


def lock(path: Path, name: str, kind: str) -> int:
    """Hold the lock of this name in a directory, made where there is none; close the handle to let go of it.

    The kernel lets go of it however this process ends. Raises `Taken` when another process writes this `kind`.
    """
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise refuse(path, f"a {kind} needs a directory, found a file") from None
        except FileNotFoundError:  # of a folder that takes none, such as those in /proc, or a link that leads nowhere
            raise refuse(path, f"cannot make the directory of the {kind}", "name another with --out") from None
        handle = os.open(path / name, os.O_RDWR | os.O_CREAT, 0o644)
        _hold(handle, path, kind)
        # Whoever held it before may have removed the file; the lock of a removed file keeps nobody out.
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)


def _hold(handle: int, path: Path, kind: str) -> None:
    if not any(map(_is_held, repeat(handle, LOOKS))):
        holder = os.read(handle, 200).decode().strip() or "another process"
        os.close(handle)
        told, hint = f"{holder} is writing this {kind}", "stop it, or name another directory with --out"
        raise Taken([Problem(told, Place(str(path), 0), hint)])
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _is_held(handle: int) -> bool:
    """Whether the lock is ours now; where it is not, after a moment in which one who only looks has let go of it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(LOOK_SECONDS)
        return False
    return True


def refuse(path: Path, message: str, hint: str = "") -> SpecError:
    """An error of a directory as a whole."""
    return SpecError([Problem(message, Place(str(path), 0), hint)])


def warn(fault: str) -> None:
    """Tell what is wrong in a directory and stops nobody."""
    print(f"warning: {fault}", file=sys.stderr)

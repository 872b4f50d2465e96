"""The pulse of a process among several, and the end of a run that one of them keeps waiting."""

import faulthandler
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import torch.distributed as dist

from runners.orphan import AGENT_STORE
from runners.outcome import LOST
from runners.rundir import RunDir
from runners.signs import Sign, Signs, Still, Verdict, broken_off, gone, waited_in_vain
from runners.world import World

PERIOD = 0.5  # seconds between two signs of a process
GRACE = 3.0  # seconds of silence after which a process whose connection broke is gone
LINGER = 1.5  # seconds from the verdict to the end, in which every process leaves its stacks
VERDICT = "verdict"


class Pulse(Thread):
    """A thread that gives the signs of one process, and reads those of the others when nothing goes on.

    Nothing goes on when this process has entered no collective for `timeout` seconds. The signs are kept in the store
    by which the processes found each other; under torchrun that is a process apart, else the first one has it. Of a
    store that does not answer nobody can ask for signs, so a second thread watches over the first.
    """

    def __init__(self, world: World, directory: RunDir, timeout: float):
        super().__init__(name="pulse", daemon=True)
        self.world, self.directory, self.timeout = world, directory, timeout
        self.done: Callable[[], int] = lambda: 0  # the last step taken
        self.compiling = False
        assert world.mesh
        self._groups: list[Any] = list(dict.fromkeys([dist.group.WORLD, *world.mesh.get_all_groups()]))
        # A copy has a connection of its own: a message that waits in the other one does not hold up the signs.
        self._store: Any = cast(Any, world.store).clone()
        self._sign = Sign(os.getpid(), socket.gethostname())
        self._over, self._alarm, self._calm, self._left = Event(), Event(), Event(), Event()
        self._error = ""
        self._first = Signs()

    def start(self) -> None:
        """Give the first sign, and wait for that of every other process."""
        self._send()
        self.world.most(0)
        self._first = self._signs()
        super().start()
        Thread(target=self._guard, name="guard", daemon=True).start()

    def run(self) -> None:
        """Give signs until the run is over here, or has to end everywhere."""
        with suppress(RuntimeError):  # the store is gone, and with it the launcher, which ends the run in another way
            self._watch()

    def _watch(self) -> None:
        still, heard = Still(PERIOD), Signs()
        while not self._over.wait(PERIOD):
            verdict = self._beat()
            still.take(self._sign.arrived)
            if self._alarm.is_set():
                verdict = verdict or self._after_alarm()
            elif still.seconds < self.timeout / 2:
                heard = {}
            elif not heard:
                heard = self._signs()
            elif still.seconds >= self.timeout:
                verdict = verdict or self._written(waited_in_vain(heard, self._signs(), self.timeout))
                still = Still(PERIOD)
            if verdict:
                self._end(verdict)

    def _guard(self) -> None:
        """End the run here when nothing goes on and the store does not answer: whoever keeps it is frozen."""
        still = Still(PERIOD)
        while not self._left.wait(PERIOD):
            still.take((self._sign.beat, self._arrived))
            if still.seconds >= self.timeout and not self.compiling:
                self._end(self._lost_keeper(f"gave no sign of life for {self.timeout:g} s"))

    def ask(self, error: RuntimeError) -> None:
        """End the run if another process is the reason of `error`; return if none is."""
        self._error = "".join(traceback.format_exception(error))
        self._alarm.set()
        while self.is_alive() and not self._calm.wait(PERIOD):
            pass
        if not self._calm.is_set() and not self._is_kept_apart:
            self._end(self._lost_keeper("is gone"))

    def leave(self, why: str) -> None:
        """Say that this process takes part no longer."""
        heard = self.is_alive()
        self._over.set()
        self.join()
        self._sign = replace(self._sign, left=why)
        if heard:
            with suppress(RuntimeError):
                self._send()
        self._left.set()

    @property
    def _arrived(self) -> int:
        """Collectives that this process has entered."""
        return sum(group._get_sequence_number_for_group() for group in self._groups)

    @property
    def _is_kept_apart(self) -> bool:
        """Whether the store is torchrun's."""
        return os.environ.get(AGENT_STORE) == "True"

    def _lost_keeper(self, fault: str) -> Verdict:
        """The verdict on whoever keeps the store, which every process reaches by itself."""
        if self._is_kept_apart:
            return Verdict(f"after step {self.done()}: torchrun {fault}", 0, [])
        # The first process may have written down by itself how it ended, and that it is to stay.
        teller = 1 if self.directory.status().get("state", "running") == "running" else None
        return Verdict(f"after step {self.done()}: rank 0 ({self._first[0]}) {fault}", teller, [self._first[0].pid])

    def _send(self) -> None:
        beat = self._sign.beat + 1
        self._sign = replace(self._sign, beat=beat, arrived=self._arrived, compiling=self.compiling)
        self._store.set(f"sign/{self.world.rank}", json.dumps(asdict(self._sign)))

    def _beat(self) -> Verdict | None:
        """Give a sign, and return the verdict that another process has found, if any."""
        self._send()
        return Verdict(**json.loads(self._store.get(VERDICT))) if self._store.check([VERDICT]) else None

    def _signs(self) -> Signs:
        found = self._store.multi_get([f"sign/{rank}" for rank in range(self.world.size)])
        return {rank: Sign(**json.loads(text)) for rank, text in enumerate(found)}

    def _after_alarm(self) -> Verdict | None:
        """Who is gone since a message failed; if nobody is, the failure is this process's own."""
        self._alarm.clear()
        before, end = self._signs(), time.monotonic() + GRACE
        verdict = self._written(gone(before))
        while not verdict and time.monotonic() < end:
            time.sleep(PERIOD)
            verdict = self._beat()
        verdict = verdict or self._written(broken_off(before, self._signs()))
        if not verdict:
            self._calm.set()
        return verdict

    def _written(self, faults: dict[int, str]) -> Verdict | None:
        """The verdict on these faults, known to all; one that was written before holds."""
        if not faults:
            return None
        signs = self._signs()
        told = "; ".join(f"rank {rank} ({signs[rank]}) {fault}" for rank, fault in faults.items())
        lost = {rank: signs[rank].pid for rank in faults if signs[rank].left is None}
        teller = 0 if 0 not in faults else self.world.rank if 0 in lost else None
        verdict = Verdict(f"after step {self.done()}: {told}", teller, list(lost.values()))
        return Verdict(**json.loads(self._store.compare_set(VERDICT, "", json.dumps(asdict(verdict)))))

    def _end(self, verdict: Verdict) -> None:
        """End this process, and those at fault of the same launcher, which may not hear a signal."""
        stacks = self.directory.path / "stacks"
        _leave_stacks(stacks / f"rank-{self.world.rank}.txt", f"{verdict.told}\n{self._error}")
        time.sleep(LINGER)
        if self.world.rank == verdict.teller:
            self._tell(verdict, stacks)
        for pid in verdict.lost:
            if pid != os.getpid() and _parent(pid) == os.getppid():
                os.kill(pid, signal.SIGKILL)
        os._exit(LOST)

    def _tell(self, verdict: Verdict, stacks: Path) -> None:
        with suppress(OSError):
            RunDir(self.directory.path).set_status("failed", self.done(), reason=verdict.told)
        told = f"{verdict.told}; stacks of the others: {stacks}; the same command goes on from the last checkpoint"
        print(f"{self.directory.path}: error: {told}", file=sys.stderr, flush=True)


@contextmanager
def watched(world: World, directory: RunDir, timeout: float, compiled: bool) -> Iterator[Pulse | None]:
    """The pulse of this process in the block, which does not come to its end where another process is lost."""
    if not world.mesh:
        yield None
        return
    pulse = Pulse(world, directory, timeout)
    pulse.start()
    why = "it was stopped"
    try:
        with _compilation(pulse) if compiled else nullcontext():
            yield pulse
    except RuntimeError as error:
        pulse.ask(error)
        why = _words(error)
        raise
    except BaseException as error:
        why = _words(error)
        raise
    finally:
        pulse.leave(why)


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def _compilation(pulse: Pulse) -> Iterator[None]:
    """Tell the pulse of every compilation in the block."""
    from torch._dynamo.callback import callback_handler as handler  # takes seconds to import

    def begins(_: Any) -> None:
        pulse.compiling = True

    def ends(_: Any) -> None:
        pulse.compiling = False

    handler.register_start_callback(begins)
    handler.register_end_callback(ends)
    try:
        yield
    finally:
        handler.remove_start_callback(begins)
        handler.remove_end_callback(ends)


def _leave_stacks(path: Path, head: str) -> None:
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as file:
            file.write(head)
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


def _parent(pid: int) -> int | None:
    """The process that started `pid`, on Linux; None elsewhere, and when it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])

"""Cells of a study run on this machine: a few at once, each in a process forked from a warm one."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from blockgraph.errors import SpecError
from blockgraph.op import Op
from runners import study
from runners.outcome import BAD_INPUT, DISK, STOPPED
from runners.stop import Stop
from runners.studies.board import Board
from runners.studies.directory import StudyDir
from runners.studies.file import Planned
from runners.studies.fork import ended, forked
from runners.study import Cell, failures_of, held

POLL = 0.05  # seconds between two looks at the cells

# What a cell would load by itself, some of it only at its first step.
LAZY = ("runners.session", "torch._dynamo", "torch.distributed.fsdp", "torch.fx.experimental.symbolic_shapes")

Wanted = Callable[[Mapping[str, Cell]], list[Planned]]


@dataclass(frozen=True)
class _Running:
    cell: Planned
    slot: int
    began: float


@dataclass
class Local:
    """Runs cells, `jobs` at once, until none is wanted; `cells` is what is known of each.

    A cell is tried once: one that failed is left to the next time that the study is started.
    """

    directory: StudyDir
    board: Board
    jobs: int
    ops: list[str]
    cells: dict[str, Cell] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    running: dict[int, _Running] = field(default_factory=dict)
    full: bool = False

    def run(self, wanted: Wanted, stop: Stop) -> None:
        """Run what `wanted` names, asked again after each change, to the end or to the first signal.

        After a signal every running cell stops at a checkpoint; after a second one, at once.
        """
        try:
            self._run(wanted, stop)
        except KeyboardInterrupt:
            self._signal()
            while self.running:
                time.sleep(POLL)
                self._reap()

    def _run(self, wanted: Wanted, stop: Stop) -> None:
        told = False
        self._fill(wanted)
        while self.running or (self._queue(wanted) and not stop.requested and not self.full):
            time.sleep(POLL)
            if stop.requested and not told:
                told = True
                self.board.say(f"{stop.requested}: every cell stops at a checkpoint; once more, and it stops at once")
                self._signal()
            if (self._reap() or not self.running) and not stop.requested and not self.full:
                self._fill(wanted)
            self.board.show([(running.cell.name, running.began) for running in self.running.values()])

    def _queue(self, wanted: Wanted) -> list[Planned]:
        busy = {running.cell.name for running in self.running.values()}
        return [cell for cell in wanted(self.cells) if cell.name not in self.tried | busy]

    def _fill(self, wanted: Wanted) -> None:
        """Start cells until `jobs` are running; one that another process still writes waits."""
        for cell in self._queue(wanted):
            free = set(range(self.jobs)) - {running.slot for running in self.running.values()}
            if not free:
                return
            if held(self.directory.run(cell.name)):
                self.board.waits(cell.name)
            else:
                self._start(cell, min(free))

    def _start(self, cell: Planned, slot: int) -> None:
        self.directory.add(cell)
        self.directory.failed(cell.name, "")
        self.tried.add(cell.name)
        self.board.started(cell)
        child = forked(lambda: self._work(cell, slot), self.directory.log(cell.name))
        self.running[child] = _Running(cell, slot, time.monotonic())

    def _work(self, cell: Planned, slot: int) -> int:
        """What the new process does: the plain command of the cell, on its share of the cores or on its own device."""
        os.close(self.directory.handle)  # a cell that outlives its sweep must not keep the next one out
        import torch

        torch.set_num_threads(max(1, cores() // self.jobs))
        os.environ["LOCAL_RANK"] = str(slot % max(1, torch.cuda.device_count()))
        from runners.train import command

        ops = [word for file in self.ops for word in ("--ops", file)]
        return command([str(self.directory.file(cell.name)), "--out", str(self.directory.run(cell.name)), *ops])

    def _signal(self) -> None:
        for child in self.running:
            os.kill(child, signal.SIGTERM)

    def _reap(self) -> bool:
        """Take in the cells that have ended; whether any has."""
        codes = {child: code for child in self.running if (code := ended(child)) is not None}
        for child, code in codes.items():
            self._ended(self.running.pop(child), code)
        return bool(codes)

    def _ended(self, running: _Running, code: int) -> None:
        name = running.cell.name
        state, _ = study.status_of(self.directory.run(name))
        if state not in study.ENDED and code not in (STOPPED, -signal.SIGTERM):
            self.directory.failed(name, _reason(code, self.directory.log(name)))
        self.full = self.full or code == DISK
        self.cells[name] = study.cell(self.directory.path, self.directory.rows[name], failures_of(self.directory.path))
        self.board.ended(self.cells[name], time.monotonic() - running.began)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(code: int, log: Path) -> str:
    """Why a process ended: the signal, or the last error that it told."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if "error: " in line.lower()]
    return (errors or lines or [f"exit code {code}"])[-1].strip()


def prepared(cells: Iterable[Planned], ops: Mapping[str, type[Op]]) -> int:
    """Load what every cell needs, and make the tokenizers and shards of all; the exit code of making them."""
    for name in LAZY:
        import_module(name)
    distinct = {json.dumps([c.run.config.data.model_dump(), c.run.config.tokenizer.model_dump()]): c for c in cells}

    def make() -> int:
        from runners import inputs

        for cell in distinct.values():
            try:
                inputs.prepare(cell.run, ops)
            except SpecError as error:
                print(error, file=sys.stderr)
                return BAD_INPUT
        return 0

    # In a process of its own, so that no thread is left in this one when it forks.
    return os.waitstatus_to_exitcode(os.waitpid(forked(make), 0)[1])

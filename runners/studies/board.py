"""What a sweep says while it runs: a live table of cells on a terminal, a line for each change elsewhere."""

import json
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from runners.outcome import held_out
from runners.progress import clock, unbroken
from runners.studies.directory import StudyDir
from runners.studies.file import Planned
from runners.study import Cell

SHOWN = 8  # cells that ended last
TAIL = 4096  # bytes of a series in which its last row is looked for
REFRESH = 0.5  # seconds between two drawings
COLUMNS = ("cell", "state", "step", "loss", "tokens/s", "left")


@dataclass
class Watched:
    """A cell that is running: its steps, the step it went on from, and what it costs next to others."""

    steps: int
    first: int
    weight: float


@dataclass
class Board(AbstractContextManager["Board"]):
    """Shows how far a study is. `left` are the costs of the cells still to run, by name, in any one unit.

    Nothing is drawn by a thread, because a process that forks must have none.
    """

    directory: StudyDir
    jobs: int
    left: dict[str, float]
    console: Console = field(default_factory=unbroken)
    watched: dict[str, Watched] = field(default_factory=dict)
    last: deque[tuple[str, ...]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    counts: Counter[str] = field(default_factory=Counter)
    waited: set[str] = field(default_factory=set)
    spent: float = 0.0
    done: float = 0.0
    drawn: float = 0.0

    def __post_init__(self) -> None:
        self.total = len(self.left)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line)

    def started(self, cell: Planned) -> None:
        """A cell begins, or goes on."""
        row = _last_row(self.directory.run(cell.name) / "metrics.jsonl")
        steps = cell.run.config.train.steps
        self.watched[cell.name] = Watched(steps, row.get("step", 0), self.left.pop(cell.name, 1.0))
        if not self.console.is_terminal:
            self.say(f"{cell.name}: started" + (f" after step {row['step']}" if row else ""))

    def waits(self, name: str) -> None:
        """A cell is being written by a process that is none of this sweep."""
        if name not in self.waited:
            self.waited.add(name)
            self.say(f"{name}: another process is writing it; this sweep waits until it ends")

    def ended(self, cell: Cell, seconds: float) -> None:
        """A cell has ended, however it did."""
        watched = self.watched.pop(cell.name)
        self.counts[cell.state] += 1
        self.spent, self.done = self.spent + seconds, self.done + watched.weight
        told = f"{told_end(cell)} ({clock(seconds)})"
        self.last.append((cell.name, told))
        if not self.console.is_terminal:
            over = self.counts.total()
            self.say(f"[{over}/{max(self.total, over)}] {cell.name}: {told}")
        elif cell.state == "failed":
            self.say(f"{cell.name}: {told}")

    def show(self, running: Iterable[tuple[str, float]]) -> None:
        """Draw the table, if it is time to: cells that run, with the moments they began, and those that ended last."""
        now = time.monotonic()
        if self.console.is_terminal and now >= self.drawn + REFRESH:
            self.drawn = now
            self.live.update(self._table(running, now), refresh=True)

    def _table(self, running: Iterable[tuple[str, float]], now: float) -> Table:
        rows = [self._running(name, now - began) for name, began in running]
        table = Table(*COLUMNS, box=None, title=self._title(), title_justify="left")
        for name, told in self.last:
            table.add_row(name, told)
        for row in rows:
            table.add_row(*row)
        return table

    def _running(self, name: str, seconds: float) -> tuple[str, ...]:
        row, watched = _last_row(self.directory.run(name) / "metrics.jsonl"), self.watched[name]
        step = row.get("step", 0)
        taken = step - watched.first
        left = clock(seconds / taken * (watched.steps - step)) if taken > 0 else ""
        loss, speed = (row.get(key) for key in ("loss", "tokens_per_s"))
        shown = "" if loss is None else f"{loss:.4f}", "" if speed is None else f"{speed:,.0f}"
        return name, "running", f"{step}/{watched.steps}", *shown, left

    def _title(self) -> str:
        counts = [f"{count} {state}" for state, count in sorted(self.counts.items())]
        waiting = f"{len(self.left)} waiting"
        left = f"about {clock(self._seconds_left())} left" if self.done and self.left else ""
        return ", ".join(filter(None, [*counts, f"{len(self.watched)} running", waiting, left]))

    def _seconds_left(self) -> float:
        """Time until the last cell ends, if the others take as long for their cost as those that have ended."""
        cost = sum(self.left.values()) + sum(watched.weight for watched in self.watched.values()) / 2
        return cost * self.spent / self.done / self.jobs


def told_end(cell: Cell) -> str:
    """How a cell ended, in words."""
    facts, step = cell.facts, cell.facts.get("step", 0)
    if cell.state == "finished":
        return f"finished: {held_out(facts)}"
    if cell.state == "diverged":
        return f"diverged after step {step}: {facts['reason']}"
    if cell.state == "failed":
        return f"failed: {facts['reason']}"
    return f"stopped after step {step}" if step else "stopped before its first step"


def _last_row(series: Path) -> dict[str, Any]:
    """The last whole row of a series that is being written; empty before there is one."""
    try:
        with series.open("rb") as file:
            file.seek(max(0, series.stat().st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        row: dict[str, Any] = json.loads(lines[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return row

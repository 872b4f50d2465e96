"""What a run says while it runs: one live line on a terminal, plain lines elsewhere."""

import os
import sys
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

BAR = 20


class Progress(AbstractContextManager["Progress"]):
    """Shows every step on a terminal, where the line is replaced, and every logged step elsewhere."""

    def __init__(self, steps: int, console: Console | None = None):
        self.steps = steps
        self.console = console or unbroken()
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def step(self, step: int, line: str, logged: bool) -> None:
        """Show where the run is."""
        if self.console.is_terminal:
            self._live.update(Text(f"{self._bar(step)} {line}", no_wrap=True, overflow="ellipsis"))
        elif logged:
            self.console.print(line)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line)

    def _bar(self, step: int) -> str:
        done = BAR * step // self.steps
        return "━" * done + "╌" * (BAR - done)


def say(line: str) -> None:
    """Print a line on stdout, unless whoever read it has gone."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _mute()


def unbroken() -> Console:
    """A console for stdout that falls silent when its reader goes, as `head` does, instead of ending the run."""
    return _Unbroken(highlight=False, markup=False, emoji=False, soft_wrap=True)


class _Unbroken(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True
        _mute()


def _mute() -> None:
    """Send stdout nowhere, which also keeps Python from complaining when it flushes at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def clock(seconds: float) -> str:
    """`1:05:09` or `5:09`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"

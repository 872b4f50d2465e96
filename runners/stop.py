"""Ctrl-C, SIGTERM and SIGUSR1 as a wish that the loop grants between two steps."""

import signal
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop(AbstractContextManager["Stop"]):
    """While open and `training`, the first signal sets `requested`; before that, and the second time, it interrupts.

    To interrupt is to raise `KeyboardInterrupt` at once. When it is `over`, only the end is being written down, and
    nothing interrupts: torchrun sends a signal to all processes as soon as one has stopped.
    """

    def __init__(self) -> None:
        self.training = self.over = False
        self.requested = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.over:
            return
        if self.requested or not self.training:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name

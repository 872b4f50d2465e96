"""Work in processes forked from one that has loaded everything: hundredths of a second in place of seconds."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from runners.stop import SIGNALS

CRASHED = 99  # exit code of a process that ended by an exception
PR_SET_PDEATHSIG = 1  # of prctl(2)


def forked(work: Callable[[], int], log: Path | None = None) -> int:
    """The id of a new process that does `work` and exits with what it returns; all that it says is added to `log`.

    It has a process group of its own, so that a Ctrl-C reaches its parent alone, and it is sent SIGTERM when its
    parent dies, where the system can do that. The parent must run no other thread.
    """
    parent = os.getpid()
    # A signal that came between the fork and the new handlers would be taken by the parent's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child
    code = CRASHED
    try:
        _settle(parent, log)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a process that has ended, minus the number of the signal that ended it; None: it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _settle(parent: int, log: Path | None) -> None:
    if log:
        os.setpgid(0, 0)
        _say_into(log)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _end_with(parent)


def _say_into(log: Path) -> None:
    handle, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (handle, 1), (handle, 2)):
        os.dup2(source, target)
    sys.stdout, sys.stderr = _by_lines(1), _by_lines(2)


def _by_lines(handle: int) -> TextIO:
    return open(handle, "w", buffering=1, closefd=False)


def _end_with(parent: int) -> None:
    """Be sent SIGTERM when the parent dies; macOS has no such thing, and a cell then runs to its end."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            os._exit(CRASHED)

"""A process that outlives its launcher, and stops as if it had been asked to."""

import os
import signal
import time
from threading import Thread

from runners.launch import Launch
from runners.outcome import STOPPED
from runners.stop import Stop

POLL_SECONDS = 0.5
GRACE = 5.0  # seconds in which a process that is not training yet has to hear


def watch(launch: Launch, stop: Stop) -> None:
    """Stop this process when torchrun was killed, which otherwise leaves it running, and its directory locked."""
    if launch.parent:
        Thread(target=_outlive, args=(launch.parent, stop), name="orphan", daemon=True).start()


def _outlive(parent: int, stop: Stop) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    if not stop.requested:  # torchrun may have passed on a signal before it went
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if not stop.training:
        os._exit(STOPPED)

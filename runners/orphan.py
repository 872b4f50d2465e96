"""A process that outlives its launcher, and stops as if it had been asked to."""

import os
import signal
import socket
import time
from threading import Thread

from blockgraph.errors import Place, Problem, SpecError
from runners.launch import Launch
from runners.outcome import STOPPED
from runners.stop import Stop

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # set by torchrun where it keeps the store itself
REACH_SECONDS = 10.0
POLL_SECONDS = 0.5
GRACE = 5.0  # seconds in which a process that is not training yet has to hear


def watch(launch: Launch, stop: Stop) -> None:
    """Stop this process when torchrun is killed, which otherwise leaves it running, and its directory locked.

    Raises `SpecError` when torchrun is gone already: it keeps the store of the processes, in which torch would look for
    them for minutes.
    """
    if os.environ.get(AGENT_STORE) == "True":
        _reach(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if launch.parent:
        Thread(target=_outlive, args=(launch.parent, stop), name="orphan", daemon=True).start()


def _reach(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        told = f"its store at {host}:{port} does not answer: {error.strerror or error}"
        raise SpecError([Problem(told, Place("torchrun", 0))]) from None


def _outlive(parent: int, stop: Stop) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    if not stop.requested:  # torchrun may have passed on a signal before it went
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if not stop.training:
        os._exit(STOPPED)

"""Where the processes of a run find each other, anew each time that they are started."""

import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from blockgraph.errors import Place, Problem, SpecError
from runners.launch import Launch

SECONDS = 300.0  # in which every process has to come
POLL_SECONDS = 0.02


def meet(launch: Launch) -> Store:
    """A store of these processes alone; raises `SpecError` in the first of them when another one does not come.

    It does so too where nobody has said where to meet.

    torchrun lets processes that it starts again find what those before them left in its store, and gloo then connects
    to what is gone. So each process leaves a word that nobody used before, under which the first one gives all of
    them one name, until every one has taken it.
    """
    try:
        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=SECONDS)))
    except ValueError as error:
        *_, told = str(error).split(": ")
        raise SpecError([Problem(told, Place("torchrun", 0), "start the processes by torchrun, or set it")]) from None
    return PrefixStore(_give(store, launch.size) if launch.leads else _take(store, launch.rank), store)


def _give(store: Store, size: int) -> str:
    name, missing, end = uuid4().hex, set(range(1, size)), time.monotonic() + SECONDS
    while missing:
        for rank in [rank for rank in missing if store.check([f"word/{rank}"])]:
            store.set(f"name/{store.get(f'word/{rank}').decode()}", name)
        missing -= {rank for rank in missing if store.check([f"{name}/taken/{rank}"])}
        if time.monotonic() > end:
            ranks = ", ".join(map(str, sorted(missing)))
            raise SpecError([Problem(f"rank {ranks} did not come within {SECONDS:g} s", Place("torchrun", 0))])
        time.sleep(POLL_SECONDS)
    return name


def _take(store: Store, rank: int) -> str:
    word = uuid4().hex
    store.set(f"word/{rank}", word)
    name: str = store.get(f"name/{word}").decode()
    store.set(f"{name}/taken/{rank}", "")
    return name

"""Processes that find each other, also on a store in which others met before them."""

from datetime import timedelta
from threading import Thread

import pytest
from torch.distributed import TCPStore

from blockgraph.errors import SpecError
from runners import meeting, orphan
from runners.launch import Launch
from runners.stop import Stop


@pytest.fixture
def kept(monkeypatch):
    """A store that outlives those who meet on it, as that of torchrun does."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{store.port}", "RANK": "0", "WORLD_SIZE": "3"}
    for name, value in (place | {orphan.AGENT_STORE: "True"}).items():
        monkeypatch.setenv(name, value)
    return store


def met(size=3):
    """What each of the processes, here threads, writes in the store that it was given."""
    found = {}

    def come(rank):
        found[rank] = meeting.meet(Launch(rank, rank, size))

    threads = [Thread(target=come, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[rank] for rank in range(size)]


def test_those_who_meet_share_what_they_write(kept):
    stores = met()
    for rank, store in enumerate(stores):
        store.set(f"{rank}", "here")
    assert [store.get(f"{rank}") for store in stores for rank in range(3)] == [b"here"] * 9


def test_those_who_meet_again_find_nothing_of_the_time_before(kept):
    for store in met():
        store.set("left", "behind")
    assert not any(store.check(["left"]) for store in met())


def test_one_that_died_before_it_was_answered_confuses_nobody(kept):
    kept.set("word/1", "of one that is gone")
    assert len(met()) == 3


def test_one_that_does_not_come_is_named(kept, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS", 0.1)
    with pytest.raises(SpecError, match=r"^torchrun: error: rank 1, 2 did not come within 0.1 s$"):
        meeting.meet(Launch(0, 0, 3))


def test_a_place_to_meet_that_nobody_has_given_is_told(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    told = "^torchrun: error: environment variable MASTER_ADDR expected, but not set; start the processes by torchrun,"
    with pytest.raises(SpecError, match=told):
        meeting.meet(Launch(0, 0, 2))


def test_a_torchrun_that_is_gone_is_told_at_once(kept, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    told = r"^torchrun: error: its store at 127.0.0.1:1 does not answer: Connection refused$"
    with pytest.raises(SpecError, match=told):
        orphan.watch(Launch(), Stop())

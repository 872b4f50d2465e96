"""What the signs of life of several processes tell about the one at fault."""

import pytest

from runners.signs import Sign, Still, broken_off, gone, waited_in_vain


def signs(*pairs, **facts):
    """Signs of ranks 0, 1, ...: a beat and the collectives entered, and whatever a rank says beside them."""
    return {rank: Sign(100 + rank, "here", *pair, **facts.get(f"rank_{rank}", {})) for rank, pair in enumerate(pairs)}


def test_processes_that_wait_for_nobody_are_not_at_fault():
    assert waited_in_vain(signs((1, 7), (1, 7)), signs((9, 7), (9, 7)), 60) == {}


def test_a_process_without_a_sign_is_named_and_those_that_wait_behind_it_are_not():
    found = waited_in_vain(signs((1, 8), (1, 7), (1, 7)), signs((9, 8), (9, 7), (1, 7)), 60)
    assert found == {2: "gave no sign of life for 60 s"}


def test_the_process_that_others_wait_for_is_named():
    found = waited_in_vain(signs((1, 9), (1, 7), (1, 8)), signs((9, 9), (9, 7), (9, 8)), 0.5)
    assert found == {1: "did not arrive where others wait for it, in 0.5 s"}


def test_a_process_that_moved_on_in_between_is_not_late():
    assert waited_in_vain(signs((1, 9), (1, 7)), signs((9, 9), (9, 8)), 60) == {}


def test_a_process_that_compiles_is_waited_for():
    assert waited_in_vain(signs((1, 9), (1, 7)), signs((9, 9), (9, 7), rank_1={"compiling": True}), 60) == {}


def test_a_process_that_compiles_and_gives_no_sign_is_lost():
    compiling = {"rank_1": {"compiling": True}}
    assert list(waited_in_vain(signs((1, 9), (1, 7), **compiling), signs((9, 9), (1, 7), **compiling), 60)) == [1]


def test_a_process_that_has_left_is_silent_without_fault():
    gone = {"rank_1": {"left": "it was stopped"}}
    assert waited_in_vain(signs((1, 9), (5, 9), **gone), signs((9, 9), (5, 9), **gone), 60) == {}


def test_after_a_broken_connection_the_silent_process_is_gone():
    assert broken_off(signs((1, 9), (1, 7), (1, 9)), signs((5, 9), (1, 7), (5, 9))) == {1: "is gone"}


def test_after_a_broken_connection_a_process_that_left_says_why_and_its_silence_counts_for_nothing_else():
    failed = {"rank_0": {"left": "OSError: no space"}}
    assert broken_off(signs((1, 9), (1, 9)), signs((2, 9), (1, 9), **failed)) == {0: "left the run: OSError: no space"}


def test_a_process_that_said_why_it_left_is_named_at_once():
    assert gone(signs((1, 9), (1, 9))) == {}
    assert gone(signs((1, 9), (1, 9), rank_1={"left": "OSError: no space"})) == {1: "left the run: OSError: no space"}


def test_a_failure_that_no_other_process_explains_is_ones_own():
    assert broken_off(signs((1, 9), (1, 7)), signs((5, 9), (5, 7))) == {}


def test_a_value_is_still_for_as_long_as_it_was_looked_at_and_not_while_nobody_could_look(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    still = Still(0.5)
    for now, value, seconds in ((1, 7, 0), (1.5, 7, 0.5), (2, 7, 1), (902, 7, 2), (902.5, 8, 0), (903, 8, 0.5)):
        still.take(value)
        assert still.seconds == pytest.approx(seconds), now

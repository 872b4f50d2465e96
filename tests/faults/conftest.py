"""A tiny run for the tests that kill, cut and fill up, and the same run undisturbed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from train_case import train, trained_in, write_case

LONG = ("train.steps=60", "log.evaluate=20", "checkpoint.every=5")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of a run file."""
    folder = tmp_path_factory.mktemp("faults")
    with trained_in(folder):
        yield write_case(folder)


@pytest.fixture(scope="session")
def straight(tiny):
    """Directory of the undisturbed run of 60 steps; what is forked after it has loaded all that a run needs."""
    out = tiny.parent / "straight"
    assert train(tiny, out, *LONG) == 0
    return out

"""Gate R1 and R12: killed at any moment, or started twice, a run ends as one that never was disturbed."""

import json
import os
import random
import re
import shutil
import socket
import time

import pytest
from conftest import LONG
from forked import Child
from train_case import assert_same

pytestmark = pytest.mark.timeout(3600)


def finish(tiny, out):
    child = Child(tiny, out, *LONG)
    code = child.wait()
    assert code == 0, child.told


@pytest.fixture(scope="module")
def seconds(tiny, straight):
    """How long an undisturbed run takes here and now."""
    began = time.perf_counter()
    child = Child(tiny, tiny.parent / "timed", *LONG)
    assert child.wait() == 0
    return time.perf_counter() - began


@pytest.mark.parametrize("kills", [3, pytest.param(190, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_changes_no_bit(tmp_path, tiny, straight, seconds, kills):
    draw, at_steps = random.Random(kills), []
    for number in range(kills):
        out = tmp_path / f"run{number}"
        child = Child(tiny, out, *LONG)
        child.kill_after(draw.uniform(0, seconds))
        assert child.wait() in (0, -9)
        at_steps.append(_rows(out))
        finish(tiny, out)
        assert_same(out, straight)
        shutil.rmtree(out)
    print(f"\nR1: {kills} of {kills} runs killed at a random moment of {seconds:.2f} s ended bitwise equal; "
          f"rows on the disk at the kill: {min(at_steps)} to {max(at_steps)}")  # fmt: skip


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kill_9_inside_a_save_changes_no_bit(tmp_path, tiny, straight, kills):
    draw, leftovers = random.Random(kills), 0
    for number in range(kills):
        out = tmp_path / f"run{number}"
        child = Child(tiny, out, *LONG)
        child.kill_in_save(draw.randint(1, 10), draw.uniform(0, 0.01))
        assert child.wait() == -9
        leftovers += any(out.glob("checkpoints/*.tmp*"))
        finish(tiny, out)
        assert_same(out, straight)
    print(f"\nR1: {kills} of {kills} kills inside a save; {leftovers} left a half-written checkpoint")


@pytest.mark.slow
def test_a_run_killed_again_and_again_gets_there(tmp_path, tiny, straight, seconds):
    draw, kills, out = random.Random(7), 0, tmp_path / "run"
    while True:
        child = Child(tiny, out, *LONG)
        child.kill_after(draw.uniform(seconds / 3, seconds))
        if child.wait() == 0:
            break
        kills += 1
    assert_same(out, straight)
    print(f"\nR1: one run killed {kills} times on its way ended bitwise equal")


def _rows(out):
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("count", [16])
def test_of_many_starts_of_a_study_exactly_one_proceeds(tmp_path, tiny, straight, count):
    shared = tmp_path / "run"
    gate, opens = os.pipe()
    children = [Child(tiny, shared, *LONG, gate=gate, log=f"{number}") for number in range(count)]
    os.write(opens, bytes(count))
    codes = {child: child.wait() for child in children}
    os.close(gate)
    os.close(opens)
    [winner] = [child for child, code in codes.items() if code == 0]
    for child in children:
        if child is not winner:
            assert codes[child] == 65
            assert f"error: process {winner.pid} on {socket.gethostname()} is writing this run; stop it" in child.told
    assert_same(shared, straight)
    print(f"\nR12: of {count} starts on one directory one went on; {count - 1} named it and ended with 1")


@pytest.mark.parametrize("races", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_of_two_writers_exactly_one_proceeds(tmp_path, tiny, straight, races):
    for number in range(races):
        shared = tmp_path / f"run{number}"
        gate, opens = os.pipe()
        children = [Child(tiny, shared, *LONG, gate=gate, log=name) for name in ("first", "second")]
        os.write(opens, b"go")
        codes = sorted(child.wait() for child in children)
        assert codes == [0, 65]
        assert_same(shared, straight)
        assert all(json.loads(line) for line in (shared / "metrics.jsonl").read_text().splitlines())
        shutil.rmtree(shared)
        os.close(gate)
        os.close(opens)
    print(f"\nR12: in {races} of {races} races one of two writers was turned away")


def test_the_writer_turned_away_names_the_other(tmp_path, tiny, straight):
    first = Child(tiny, tmp_path / "run", *LONG)
    first.wait_for_save()
    second = Child(tiny, tmp_path / "run", *LONG, log="second")
    assert second.wait() == 65
    assert re.search(rf"error: process {first.pid} on \S+ is writing this run; stop it", second.told)
    assert first.wait() == 0

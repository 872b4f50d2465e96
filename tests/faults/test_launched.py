"""Gates R2, R9, R10 and R11: under torchrun, processes that die, freeze or are asked to stop."""

import json
import random
import re
import shutil
import signal
import sys
import time

import pytest
from launched import Launched, seconds_until_gone, send
from ranks import Job, on_ranks
from train_case import assert_same

from runners.checkpoint import Checkpoints
from runners.rundir import claim

pytestmark = [
    pytest.mark.dist,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc"),
]

STEPS, EVERY, TIMEOUT = 40, 5, 20
RUN = (f"train.steps={STEPS}", "log.evaluate=20", f"checkpoint.every={EVERY}", f"train.timeout_s={TIMEOUT}")


@pytest.fixture(scope="module")
def undisturbed(tiny):
    """Directory of the same run on two processes that nobody disturbed."""
    out = tiny.parent / "two"
    on_ranks(2, tiny, [Job(out, RUN)])
    return out


def status(out):
    return json.loads((out / "status.json").read_text())


def finish(tiny, out, undisturbed):
    """Go on to the end; the bits are those of the undisturbed run."""
    on_ranks(2, tiny, [Job(out, RUN)])
    assert_same(out, undisturbed)


def frozen(run, workers, rank):
    """Freeze a process; how long it takes until the other one tells of it."""
    send(workers[rank], signal.SIGSTOP)
    took = run.until_told(f"rank {rank} (process {workers[rank]} on ")
    said = (
        rf"{run.out}: error: after step \d+: rank {rank} \(process {workers[rank]} on \S+\) gave no sign of life for "
    )
    assert re.search(rf"{said}{TIMEOUT} s; stacks of the others: {run.out}/stacks; the same command goes on", run.told)
    assert "runners/loop.py" in (run.out / "stacks" / f"rank-{1 - rank}.txt").read_text()
    seconds_until_gone(workers)
    return took


def test_killed_then_frozen_then_without_torchrun_a_run_ends_bit_for_bit_as_if_nothing_had_been(
    tmp_path, tiny, undisturbed
):
    out = tmp_path / "run"
    with Launched(tiny, out, *RUN, restarts=2) as run:
        workers = run.until_row(8)
        send(workers[1], signal.SIGKILL)
        run.until_told(f"rank 1 (process {workers[1]} on ")
        seconds_until_gone(workers)
        frozen(run, run.until_row(16), 0)
        workers = run.until_row(24)
        run.agent.kill()
        seconds_until_gone(workers)
    assert (status(out)["state"], status(out)["reason"]) == ("stopped", "SIGTERM")
    finish(tiny, out, undisturbed)


@pytest.mark.slow
def test_a_killed_process_ends_all_and_torchrun_starts_them_again(tmp_path, tiny, undisturbed):
    draw, slowest, kills = random.Random(2), 0.0, 20
    for number in range(kills):
        out = tmp_path / f"run{number}"
        with Launched(tiny, out, *RUN, restarts=1) as run:
            workers = run.until_row(draw.randrange(1, STEPS - 3))
            rank = draw.randrange(2)
            send(workers[rank], signal.SIGKILL)
            slowest = max(slowest, seconds_until_gone(workers))
            assert run.wait() == 0, run.told
        assert f"rank {rank} (process {workers[rank]} on " in run.told
        assert_same(out, undisturbed)
        shutil.rmtree(out)
    print(f"\nR2: {kills} of {kills} runs with a killed process ended bitwise equal; "
          f"the other process was gone after at most {slowest:.1f} s")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_frozen_process_is_named_and_ends_the_run(tmp_path, tiny, undisturbed, rank, restarts):
    out = tmp_path / "run"
    with Launched(tiny, out, *RUN, restarts=restarts) as run:
        took = frozen(run, run.until_row(17), rank)
        assert run.wait() == (0 if restarts else 1)
    if not restarts:
        assert status(out)["state"] == "failed"
        assert f"rank {rank} " in status(out)["reason"]
        finish(tiny, out, undisturbed)
    assert_same(out, undisturbed)
    print(f"\nR10: rank {rank} frozen: named {took:.1f} s later, with a timeout of {TIMEOUT} s")


MOMENTS = {
    "training": lambda run: run.until_row(7),
    "before step 1": lambda run: run.until(lambda: (run.out / "run.lock").exists()),
    "in a save": lambda run: run.until_save(),
    "starting": lambda run: run.until(lambda: len(run.workers) == 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_no_process_outlives_torchrun(tmp_path, tiny, undisturbed, moment):
    out = tmp_path / "run"
    with Launched(tiny, out, *RUN) as run:
        workers = MOMENTS[moment](run)
        run.agent.kill()
        took = seconds_until_gone(workers)
        with claim(out):
            pass
    print(f"\nR11: torchrun killed {moment}: its processes were gone after {took:.1f} s, the lock was free")
    assert not (out / "status.json").exists() or status(out)["state"] == "stopped"
    finish(tiny, out, undisturbed)


def to_agent(run, workers, number):
    send(run.agent.pid, number)


def to_worker(run, workers, number):
    send(workers[1], number)


def to_each(run, workers, number):
    send(workers[0], number)
    time.sleep(0.05)
    send(workers[1], number)


# Where a signal goes, and when.
ASKED = {
    "to torchrun": (to_agent, "training"),
    "to one process": (to_worker, "training"),
    "to both processes in turn": (to_each, "training"),
    "to torchrun in a save": (to_agent, "in a save"),
    "to torchrun before step 1": (to_agent, "before step 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("asked", ASKED)
def test_a_run_that_is_asked_to_stop_loses_no_step(tmp_path, tiny, undisturbed, asked, number):
    out, (ask, moment) = tmp_path / "run", ASKED[asked]
    with Launched(tiny, out, *RUN) as run:
        workers = MOMENTS[moment](run)
        ask(run, workers, number)
        code = run.wait()
        took = seconds_until_gone(workers)
        logged = run.rows
    saved = Checkpoints(out / "checkpoints", 2).peek()
    said = status(out)["state"] if (out / "status.json").exists() else "no status"
    lost = logged - (saved.step if saved else 0)
    print(f"\nR9: {number.name} {asked}: torchrun {code}, {said}, {lost} steps lost, gone {took:.1f} s after it")
    assert lost <= 1
    assert said == "stopped" or not logged
    finish(tiny, out, undisturbed)

"""Gates R3 and R14 on several processes: faults of one of them, and runs that go on again and again."""

import json
import math
import os
import re
import signal
import sys
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from ranks import Job, codes_of, on_ranks
from train_case import assert_same, series, state, train, trained_in, write_case

from blockgraph.kernels.base import local
from runners.metrics import events
from runners.outcome import LOST
from runners.trainer import Trainer

pytestmark = [pytest.mark.dist, pytest.mark.timeout(3600)]

STEPS = ("train.batch=8", "train.micro_batch=2", "checkpoint.every=1000", "log.evaluate=1000")
SKIP = (*STEPS, "train.on_fault=skip")
BACK = (
    *STEPS, "train.on_fault=rollback", "train.rollback.steps=4", "train.rollback.before=1", "train.rollback.after=1",
    "train.steps=24", "checkpoint.every=3",
)  # fmt: skip


@contextmanager
def spoiled(rank, at=None, loss=(), gradient=(), spikes=()):
    """Batches by index whose loss or gradient is NaN, or whose loss is 30 times as large, on one rank or on all.

    A step that is spoiled so must leave every bit of weights and moments of every process.
    """
    step, backward = Trainer.step, Trainer._backward
    factors = dict.fromkeys(loss, math.nan) | dict.fromkeys(spikes, 30.0)

    def spoiled_backward(self, index):
        plain, here = self.loss, at in (None, rank)
        if here:
            self.loss = lambda *given: tuple(part * factors.get(index, 1.0) for part in plain(*given))
        losses = backward(self, index)
        self.loss = plain
        if here and index in gradient:
            local(next(iter(self.parameters.values())).grad).view(-1)[:1] = math.nan
        return losses

    def kept_step(self, number, batch, accepts):
        before = held(self) if batch in {*factors, *gradient} else {}
        made = step(self, number, batch, accepts)
        if before:
            torch.testing.assert_close(held(self), before, rtol=0, atol=0)
        return made

    Trainer.step, Trainer._backward = kept_step, spoiled_backward
    try:
        yield
    finally:
        Trainer.step, Trainer._backward = step, backward


def held(trainer):
    """Copies of what this process holds of the weights and moments."""
    groups = trainer.tensors().items()
    return {
        f"{group}.{name}": local(value.detach()).clone() for group, tensors in groups for name, value in tensors.items()
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rank-faults")
    with trained_in(folder):
        yield write_case(folder)


def one(run, job):
    """A job on one process."""
    with job.around(0):
        assert train(run, job.out, *job.overrides) == 0


def skipped(out):
    """Indices of the batches whose updates were left out."""
    return [row["step"] - 1 for row in series(out) if "why_skipped" in row]


def status(out):
    return json.loads((out / "status.json").read_text())


FAULTS = {"loss": {"loss": (4, 7)}, "gradient": {"gradient": (4, 7)}}
EPOCH = (*STEPS, "data.seq=64", "set.d_model=66", "set.n_heads=3", "tokenizer.vocab=281", "checkpoint.every=5")


@pytest.fixture(scope="module")
def two(tiny):
    """Short runs on two processes, of which one has a fault; some also on one process."""
    folder = tiny.parent / "two"
    alike = {
        "skip": Job(folder / "skip", (*SKIP, "train.steps=12"), around=partial(spoiled, loss=(4, 7))),
        "back": Job(folder / "back", BACK, around=partial(spoiled, loss=(13,))),
    }
    jobs = [*alike.values()]
    for rank in (0, 1):
        for kind, fault in FAULTS.items():
            around = partial(spoiled, at=rank, **fault)
            jobs.append(Job(folder / f"{kind}-{rank}", (*SKIP, "train.steps=12"), around=around))
    jobs += [Job(folder / "epoch", EPOCH, stop=stop) for stop in (2, 6, 9)]
    jobs += [Job(folder / "epoch", EPOCH), Job(folder / "epoch-straight", EPOCH)]
    on_ranks(2, tiny, jobs)
    for name, job in alike.items():
        one(tiny, Job(folder / f"{name}-alone", job.overrides, around=job.around))
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_one_process_is_applied_on_none(two, kind, rank):
    assert skipped(two / f"{kind}-{rank}") == [4, 7]
    # The same batches are left out, so all that follows is the same too, bit for bit.
    assert_states_alike(two / f"{kind}-{rank}", two / "skip")


def assert_states_alike(out, other):
    torch.testing.assert_close(state(out), state(other), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["skip", "back"])
def test_what_follows_a_fault_does_not_depend_on_the_number_of_processes(two, name):
    torch.testing.assert_close(state(two / name), state(two / f"{name}-alone"), rtol=1e-5, atol=1e-5)
    assert events(two / name / "metrics.jsonl") == events(two / f"{name}-alone" / "metrics.jsonl")
    counts = ("skipped", "rollbacks", "spikes")
    assert [status(two / name)[key] for key in counts] == [status(two / f"{name}-alone")[key] for key in counts]
    assert skipped(two / name) == skipped(two / f"{name}-alone")


def test_accumulated_gradients_and_uneven_shards_go_on_bit_for_bit_three_times(two):
    assert_same(two / "epoch", two / "epoch-straight")


@contextmanager
def struck(rank, strike):
    """What happens to the first process before its fifth step."""
    step = Trainer.step

    def struck_step(self, number, *rest):
        if number == 5 and rank == 0:
            strike()
        return step(self, number, *rest)

    Trainer.step = struck_step
    try:
        yield
    finally:
        Trainer.step = step


def freeze():
    os.kill(os.getpid(), signal.SIGSTOP)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("a mistake")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the parent of a process in /proc")
@pytest.mark.parametrize(("strike", "code", "reason"), [
    (freeze, -signal.SIGKILL, r"after step 4: rank 0 \(process \d+ on \S+\) gave no sign of life for 5 s"),
    (die, -signal.SIGKILL, r"after step 4: rank 0 \(process \d+ on \S+\) is gone"),
    (fail, 1, "ValueError: a mistake"),
])  # fmt: skip
def test_without_torchrun_the_process_that_keeps_the_store_is_missed_too(tiny, tmp_path, strike, code, reason):
    job = Job(tmp_path / "run", (*STEPS, "train.timeout_s=5"), around=partial(struck, strike=strike))
    assert codes_of(2, tiny, job, limit=180.0) == [code, LOST]
    assert status(job.out)["state"] == "failed"
    assert re.fullmatch(reason, status(job.out)["reason"])
    assert "runners/loop.py" in (job.out / "stacks/rank-1.txt").read_text()


INDICES = (0, 1, 63, 64, 200)
SPIKES = (210, 250, 320)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_faults_at_the_named_steps_hide_no_later_spike(tiny, tmp_path, kind, rank):
    around = partial(spoiled, at=rank, spikes=SPIKES, **{kind: INDICES})
    on_ranks(2, tiny, [Job(tmp_path / "run", (*SKIP, "train.steps=325"), around=around)], limit=1200.0)
    assert skipped(tmp_path / "run") == [*INDICES, *SPIKES]
    print(
        f"\nR14: NaN in the {kind} of rank {rank} at steps {INDICES}: none applied on either; spikes at {SPIKES} seen"
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_runs_go_on_bit_for_bit_in_every_way(tiny, tmp_path, size):
    # 224 sequences of 128 tokens are 28 steps of 8, or 14 of 16: these cross from the first epoch to the second.
    shape, end = (*EPOCH, "data.seq=128", "train.steps=36"), 56 // size
    ways = {"twice": (3, 7), "three times": (2, 5, 9), "across an epoch": (end - 1, end + 2), "after a save": (5, 6)}
    jobs = []
    for accumulated in (1, 2, 4):
        overrides = (*shape, f"train.batch={4 * size}", f"train.micro_batch={4 // accumulated}")
        jobs.append(Job(tmp_path / f"straight-{accumulated}", overrides))
        for way, stops in ways.items():
            out = tmp_path / f"{way}-{accumulated}"
            jobs += [Job(out, overrides, stop=stop) for stop in stops] + [Job(out, overrides)]
    on_ranks(size, tiny, jobs, limit=3000.0)
    for accumulated in (1, 2, 4):
        for way in ways:
            assert_same(tmp_path / f"{way}-{accumulated}", tmp_path / f"straight-{accumulated}")
    print(f"\nR3: {3 * len(ways)} of {3 * len(ways)} runs on {size} processes went on bitwise equal")

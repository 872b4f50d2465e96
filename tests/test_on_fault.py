"""Steps that went wrong: skipped or rolled back as the run file asks, told everywhere, and the same after a kill."""

import json
import math
import os

import pytest
from train_case import assert_same, series, state, train, trained_in, write_case

from runners import checkpoint, metrics
from runners.metrics import Metrics, events
from runners.passed import batch_of, disjoint
from runners.trainer import Trainer

SKIP = ("train.on_fault=skip",)
BACK = (
    "train.on_fault=rollback", "train.rollback.steps=4", "train.rollback.before=1", "train.rollback.after=1",
    "train.steps=24",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with trained_in(folder):
        yield write_case(folder)


@pytest.fixture
def poison(monkeypatch):
    """Batches by index whose loss is multiplied, and the list of (step, batch) that were tried."""
    factors, tried, real = {}, [], Trainer.step

    def step(self, number, batch, accepts):
        tried.append((number, batch))
        plain = self.loss
        self.loss = lambda *given: tuple(part * factors.get(batch, 1.0) for part in plain(*given))
        try:
            return real(self, number, batch, accepts)
        finally:
            self.loss = plain

    monkeypatch.setattr(Trainer, "step", step)
    return factors, tried


def status(out):
    return json.loads((out / "status.json").read_text())


def counted(out):
    return {key: status(out)[key] for key in ("spikes", "skipped", "rollbacks")}


def test_a_skipped_step_leaves_the_weights_and_moves_the_schedule(tmp_path, tiny, poison, capfd):
    factors, tried = poison
    factors[4] = math.nan
    assert train(tiny, tmp_path / "run", *SKIP, "log.every=100") == 0
    assert tried == [(n, n - 1) for n in range(1, 13)]
    assert counted(tmp_path / "run") == {"spikes": 0, "skipped": 1, "rollbacks": 0}
    rows = {row["step"]: row for row in series(tmp_path / "run")}
    assert rows[5]["why_skipped"] == "the loss of step 5 is nan"
    assert (rows[5]["loss"], rows[5]["grad_norm"]) == (None, None)
    assert rows[12]["skipped"] == 1
    assert state(tmp_path / "run")["embed.weight.step"] == 11
    assert "step 5 is skipped: the loss of step 5 is nan\n" in capfd.readouterr().out


def test_more_skips_in_a_row_than_allowed_end_the_run(tmp_path, tiny, poison):
    factors, _ = poison
    factors.update(dict.fromkeys([2, 3, 5, 6, 7], math.inf))
    assert train(tiny, tmp_path / "run", *SKIP, "train.skips=2") == 70
    said = status(tmp_path / "run")
    assert (said["state"], said["step"], said["rule"], said["skipped"]) == ("diverged", 7, "non_finite", 5)


def test_the_last_step_may_be_skipped(tmp_path, tiny, poison):
    factors, _ = poison
    factors[11] = math.nan
    assert train(tiny, tmp_path / "run", *SKIP) == 0
    last = series(tmp_path / "run")[-1]
    assert (last["step"], last["loss"]) == (12, None)
    assert last["val_loss"] > 0


def test_a_spike_is_counted_and_by_default_changes_nothing(tmp_path, tiny, poison):
    factors, _ = poison
    assert train(tiny, tmp_path / "calm", "train.steps=24") == 0
    assert "spikes" not in series(tmp_path / "calm")[-1]
    factors[20] = 5.0
    assert train(tiny, tmp_path / "run", "train.steps=24") == 0
    assert counted(tmp_path / "run") == {"spikes": 1, "skipped": 0, "rollbacks": 0}
    assert [row.get("spikes", 0) for row in series(tmp_path / "run")] == [0] * 20 + [1] * 4
    assert state(tmp_path / "run")["embed.weight.step"] == 24


def test_spikes_in_a_row_end_a_run_that_asks_for_it(tmp_path, tiny, poison):
    factors, _ = poison
    factors.update(dict.fromkeys([18, 20, 21], 5.0))
    rule = ("train.steps=24", "train.diverged.spike.in_a_row=2")
    assert train(tiny, tmp_path / "run", *rule) == 72
    said = status(tmp_path / "run")
    assert (said["rule"], said["step"], said["spikes"]) == ("spike", 22, 3)
    assert said["reason"].startswith("step 22 is spike 2 in a row: the ")


def test_a_spike_is_skipped_where_faults_are(tmp_path, tiny, poison):
    factors, _ = poison
    factors[20] = 5.0
    assert train(tiny, tmp_path / "run", *SKIP, "train.steps=24") == 0
    assert counted(tmp_path / "run") == {"spikes": 1, "skipped": 1, "rollbacks": 0}
    assert state(tmp_path / "run")["embed.weight.step"] == 23


def test_going_back_passes_over_exactly_the_logged_batches(tmp_path, tiny, poison):
    factors, tried = poison
    factors[13] = math.nan
    assert train(tiny, tmp_path / "run", *BACK) == 0
    [event] = events(tmp_path / "run" / "metrics.jsonl")
    reason = "the loss of step 14 is nan"
    assert event == {
        "step": 9, "event": "rollback", "from": 14, "passed": [[12, 15]], "rule": "non_finite", "reason": reason,
    }  # fmt: skip
    again = [(n, n - 1 if n < 13 else n + 2) for n in range(10, 25)]
    assert tried == [(n, n - 1) for n in range(1, 15)] + again
    assert [row["step"] for row in series(tmp_path / "run") if "event" not in row] == list(range(1, 25))
    assert counted(tmp_path / "run")["rollbacks"] == 1
    dropped = (tmp_path / "run" / "metrics.dropped.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in dropped] == [10, 11, 12, 13]


def test_a_fault_before_the_first_checkpoint_goes_back_to_the_beginning(tmp_path, tiny, poison):
    factors, tried = poison
    factors[1] = math.nan
    assert train(tiny, tmp_path / "run", *BACK) == 0
    assert tried[:4] == [(1, 0), (2, 1), (1, 3), (2, 4)]
    assert counted(tmp_path / "run")["rollbacks"] == 1


def test_going_back_ends_after_the_allowed_times(tmp_path, tiny, poison):
    factors, _ = poison
    factors.update(dict.fromkeys(range(13, 40), math.nan))
    assert train(tiny, tmp_path / "run", *BACK, "train.rollback.most=2") == 70
    said = status(tmp_path / "run")
    assert (said["state"], said["rule"], said["rollbacks"]) == ("diverged", "non_finite", 2)
    assert events(tmp_path / "run" / "metrics.jsonl")[-1]["passed"] == [[12, 15], [14, 17]]


WRITES = (
    (os, "rename"), (checkpoint, "sync"), (metrics, "save"), (Metrics, "append"), (Metrics, "rewind"),
    (checkpoint.Checkpoints, "back_to"),
)  # fmt: skip


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.mark.parametrize(
    "moment", [1, 3, 7, 16, 33, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 60, 2))]
)
def test_a_kill_while_or_after_going_back_changes_no_bit(tmp_path, tiny, poison, monkeypatch, moment):
    factors, tried = poison
    factors.update({13: math.nan, 20: math.nan})
    if not (tiny.parent / "back" / "status.json").exists():
        assert train(tiny, tiny.parent / "back", *BACK) == 0
    calls = iter(range(1, 10_000))

    def mortal(real):
        def call(*arguments, **named):
            if tried[-1:] > [(12, 0)] and next(calls) == moment:
                raise Killed
            return real(*arguments, **named)

        return call

    tried.clear()
    with monkeypatch.context() as patch:
        for owner, name in WRITES:
            patch.setattr(owner, name, mortal(getattr(owner, name)))
        with pytest.raises(Killed):
            train(tiny, tmp_path / "run", *BACK)
    assert train(tiny, tmp_path / "run", *BACK) == 0
    assert_same(tmp_path / "run", tiny.parent / "back")
    assert events(tmp_path / "run" / "metrics.jsonl") == events(tiny.parent / "back" / "metrics.jsonl")


@pytest.mark.parametrize(
    ("passed", "batches"),
    [
        ([], [0, 1, 2, 3, 4, 5]),
        ([(2, 4)], [0, 1, 4, 5, 6, 7]),
        ([(4, 5), (1, 3)], [0, 3, 5, 6, 7, 8]),
        ([(1, 4), (2, 5)], [0, 5, 6, 7, 8, 9]),
        ([(0, 2), (2, 3)], [3, 4, 5, 6, 7, 8]),
    ],
)
def test_the_batches_of_steps_are_those_in_order_that_were_not_passed_over(passed, batches):
    assert [batch_of(step, passed) for step in range(1, 7)] == batches
    assert all(first[1] < second[0] for first, second in zip(disjoint(passed), disjoint(passed)[1:], strict=False))

"""Checkpoints written behind the training: what they hold, how many at once, and what becomes of their faults."""

import errno
import os
import threading

import pytest
import torch
from train_case import assert_same, series, state, train, trained_in, write_case

from runners import checkpoint
from runners.checkpoint import Checkpoints
from runners.launch import Launch
from runners.saver import Saver
from runners.world import World

ALONE = World(Launch(), torch.device("cpu"))
LIMIT = 30.0


@pytest.fixture
def gate(monkeypatch):
    """Files of tensors are written once this is set; `writing` is set when one is waited for."""
    gate, gate.writing, real = threading.Event(), threading.Event(), checkpoint.save_file

    def save_file(*given):
        gate.writing.set()
        assert gate.wait(LIMIT)
        real(*given)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    return gate


@pytest.fixture
def saver(tmp_path):
    made = Saver(Checkpoints(tmp_path, 2), ALONE, background=True)
    yield made
    made.close()


def newest(saver):
    return saver.checkpoints.newest(pytest.fail)


def test_what_changes_while_it_is_written_is_not_saved(saver, gate):
    weight = torch.ones(3)
    saver.save(1, {"model": {"w": weight}}, {})
    assert gate.writing.wait(LIMIT)
    weight.fill_(7.0)
    gate.set()
    saver.settle()
    assert newest(saver).tensors("model")["w"].tolist() == [1.0, 1.0, 1.0]


def test_training_goes_on_while_a_checkpoint_is_written(saver, gate):
    saver.save(1, {"model": {"w": torch.ones(3)}}, {})
    saver.check()
    assert (saver.saved, newest(saver)) == (0, None)


def test_two_are_never_written_at_once(saver, gate):
    saver.save(1, {"model": {"w": torch.ones(3)}}, {})
    second = threading.Thread(target=saver.save, args=(2, {"model": {"w": torch.ones(3)}}, {}))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    gate.set()
    second.join(LIMIT)
    saver.settle()
    assert (saver.saved, newest(saver).step) == (2, 2)


def test_in_the_foreground_a_save_is_over_when_it_returns(tmp_path):
    saver = Saver(Checkpoints(tmp_path, 2), ALONE, background=False)
    saver.save(1, {"model": {"w": torch.ones(3)}}, {})
    assert newest(saver).step == 1
    saver.close()


def test_pieces_that_never_come_end_with_the_run(tmp_path):
    closed = threading.Event()
    closed.set()
    name = checkpoint.piece_name("model", 1, 2)
    with pytest.raises(OSError, match="ended before this piece of the checkpoint was written"):
        Checkpoints(tmp_path, 2).save(1, {}, {}, [name], closed)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saver")
    with trained_in(folder):
        yield write_case(folder)


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_ends_the_run_at_a_following_step(tiny, tmp_path, monkeypatch, background, capfd):
    real, out = checkpoint.save_file, tmp_path / "run"

    def full(tensors, path):
        if "step-00000006" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        assert train(tiny, out, f"checkpoint.async={background}") == 74
    assert "No space left on device; what was saved before stands" in capfd.readouterr().err
    assert 6 <= len(series(out)) <= 9
    assert Checkpoints(out / "checkpoints", 2).newest(pytest.fail).step == 3
    assert train(tiny, out) == 0


def test_writing_behind_the_training_changes_no_bit(tiny, tmp_path):
    for background in ("true", "false"):
        assert train(tiny, tmp_path / background, f"checkpoint.async={background}") == 0
    assert state(tmp_path / "true")
    assert_same(tmp_path / "true", tmp_path / "false")


def test_recomputing_activations_changes_no_bit(tiny, tmp_path):
    for kind in ("none", "block"):
        overrides = (f"train.checkpointing={kind}", "set.block=sigma_reparam", "train.precision=bf16")
        assert train(tiny, tmp_path / kind, *overrides) == 0
    assert_same(tmp_path / "none", tmp_path / "block")

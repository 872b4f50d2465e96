"""Checkpoints and the files around them: whole or absent, and every damage noticed."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockgraph import files
from blockgraph.errors import SpecError
from runners import checkpoint, rundir, stored
from runners.checkpoint import Checkpoints, piece_name, verify
from runners.metrics import Metrics, rows


def tensors(step):
    draw = torch.Generator().manual_seed(step)
    model = {"embed.weight": torch.randn(7, 3, generator=draw), "gamma": torch.randn(1, generator=draw)}
    return {"model": model, "optim": {"embed.weight.step": torch.tensor(float(step))}}


def saved(path, *steps, keep=2):
    made = Checkpoints(path, keep)
    for step in steps:
        made.save(step, tensors(step), {"note": {"first": 0.1 + 0.2, "none": None}})
    return made


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    found = saved(tmp_path, 3, 5).newest(pytest.fail)
    assert (found.step, found.state["note"]) == (5, {"first": 0.1 + 0.2, "none": None})
    for name, group in tensors(5).items():
        torch.testing.assert_close(found.tensors(name), group, rtol=0, atol=0)


def test_names_and_shapes_are_known_without_reading_a_tensor(tmp_path, monkeypatch):
    found = saved(tmp_path, 3).newest(pytest.fail)
    monkeypatch.setattr(stored, "_rows", lambda *_: pytest.fail("a tensor was read"))
    for name, group in tensors(3).items():
        held = found.tensors(name)
        assert set(group) - held.keys() == held.keys() - set(group) == set()
        assert "none" not in held
        assert {key: held.shape(key) for key in held} == {key: value.shape for key, value in group.items()}


def test_rows_of_pieces_are_those_of_the_whole(tmp_path):
    whole = torch.arange(14.0).reshape(7, 2)
    made = Checkpoints(tmp_path, 2)
    cuts = {piece_name("model", n, 4): {"w": whole[2 * n : 2 * n + 2]} for n in range(3)}
    made.save(1, cuts | {piece_name("model", 3, 4): {"w": whole[6:]}}, {})
    held = made.newest(pytest.fail).tensors("model")
    for start in range(8):
        for end in range(start, 8):
            torch.testing.assert_close(held.rows("w", start, end), whole[start:end], rtol=0, atol=0)
    assert held.shape("w") == whole.shape


def test_the_newest_are_kept_and_nothing_else_is_left(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=3)
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004"]


@pytest.mark.parametrize(("step", "damaged", "expected", "kept"), [
    (5, [], 4, [2, 4]), (3, [], 2, [2]), (1, [], 2, [2]), (9, [], 8, [2, 4, 6, 8]),
    (5, [4], 2, [2]), (5, [2, 4], 6, [6]), (3, [2], 4, [4]), (5, [2, 4, 6, 8], None, []),
])  # fmt: skip
def test_going_back_takes_the_newest_good_one_of_old_enough_or_else_the_oldest_good_one(
    tmp_path, step, damaged, expected, kept
):
    made, told = saved(tmp_path, 2, 4, 6, 8, keep=4), []
    for number in damaged:
        truncate(tmp_path / f"step-{number:08d}" / "state.json")
    found = made.back_to(step, told.append)
    assert (found.step if found else None, len(told)) == (expected, len(damaged))
    assert [name for name in names(tmp_path) if "damaged" not in name] == [f"step-{number:08d}" for number in kept]


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path, 2).newest(pytest.fail) is None


def test_nothing_is_pickled(tmp_path):
    saved(tmp_path, 1)
    assert names(tmp_path / "step-00000001") == [
        "manifest.json",
        "model.safetensors",
        "optim.safetensors",
        "state.json",
    ]


def remove(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def swap(path):
    path.write_bytes((path.parent.with_name("step-00000001") / path.name).read_bytes())


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "optim.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [remove, truncate, zero, swap])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, damage, name):
    made, told = saved(tmp_path, 1, 2), []
    damage(tmp_path / "step-00000002" / name)
    assert made.newest(told.append).step == 1
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path}/step-00000002 is damaged and passed over: ")
    assert names(tmp_path) == ["step-00000001", "step-00000002.damaged0"]


def test_damage_is_told_by_its_kind(tmp_path):
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002"
    (path / "model.safetensors").unlink()
    assert verify(path) == "model.safetensors: No such file or directory"
    shutil.copy(tmp_path / "step-00000001" / "model.safetensors", path)
    assert verify(path) == "model.safetensors does not have the sha256 of the manifest"
    (path / "extra").touch()
    assert verify(path) == "manifest.json does not list extra"
    (tmp_path / "step-00000001").rename(tmp_path / "step-00000009")
    assert verify(tmp_path / "step-00000009") == "it holds step 1"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_noticed(tmp_path, data):
    path = tmp_path / "step-00000001"
    if not path.exists():
        saved(tmp_path, 1)
    file = path / data.draw(st.sampled_from(names(path)))
    original = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(original) - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    try:
        assert verify(path), f"bit {bit} of {file.name}"
    finally:
        file.write_bytes(original)


def test_every_bit_of_the_manifest_counts(tmp_path):
    saved(tmp_path, 1)
    file = tmp_path / "step-00000001" / "manifest.json"
    original = file.read_bytes()
    for bit in range(8 * len(original)):
        flipped = bytearray(original)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert verify(file.parent), f"bit {bit}"


def faulty(monkeypatch, module, name, at, code=errno.ENOSPC):
    """Let call number `at` of a function fail as a full disk does."""
    real, calls = getattr(module, name), iter(range(1_000))

    def call(*arguments, **named):
        if next(calls) == at:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize("name", ["save_file", "sync"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_the_last_good_state(tmp_path, monkeypatch, name, at):
    made = saved(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        faulty(patch, checkpoint, name, at)
        with pytest.raises(OSError, match="No space"):
            made.save(3, tensors(3), {})
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert made.newest(pytest.fail).step == 2


def test_safetensors_errors_are_disk_errors(tmp_path, monkeypatch):
    def fail(*_):
        raise checkpoint.SafetensorError("I/O error: no space")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="no space") as error:
        Checkpoints(tmp_path, 2).save(1, tensors(1), {})
    assert error.value.errno == errno.EIO


def test_leftovers_of_a_killed_save_are_cleaned_away(tmp_path):
    made = saved(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002.tmp0")
    assert made.newest(pytest.fail).step == 1
    assert names(tmp_path) == ["step-00000001"]


def test_a_file_is_old_or_new_but_never_half(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.save(path, "old")
    faulty(monkeypatch, os, "fsync", 0)
    with pytest.raises(OSError, match="No space"):
        files.save(path, "new")
    assert (path.read_text(), names(tmp_path)) == ("old", ["a"])


@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_metrics_cut_anywhere_continue_with_every_step_once(tmp_path, cut):
    path, whole = tmp_path / "metrics.jsonl", [{"step": step, "loss": step / 3} for step in range(1, 6)]
    first = Metrics(path, 0)
    for row in whole:
        first.append(row)
    first.close()
    os.truncate(path, path.stat().st_size - cut)
    left = len(rows(path))
    again = Metrics(path, min(left, 3))
    for row in whole[min(left, 3) :]:
        again.append(row)
    again.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == whole


def test_only_one_writer_gets_a_directory(tmp_path):
    path = tmp_path / "run"
    with rundir.claim(path):
        program = f"from pathlib import Path; from runners import rundir; rundir.claim(Path({str(path)!r})).__enter__()"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} on " in other.stderr
        assert "is writing this run" in other.stderr
        with pytest.raises(
            SpecError, match=rf"{path}: error: process {os.getpid()} on .* is writing this run; stop it"
        ):
            rundir.claim(path).__enter__()


def test_a_directory_in_which_no_run_began_is_not_left_behind(tmp_path):
    with pytest.raises(SpecError), rundir.claim(tmp_path / "run"):
        raise SpecError([])
    assert names(tmp_path) == []
    with rundir.claim(tmp_path / "run") as run:
        run.write("run.yaml", "run: x\n")
    assert names(tmp_path / "run") == ["run.lock", "run.yaml"]


def test_a_lock_on_a_removed_file_keeps_nobody_out(tmp_path, monkeypatch):
    path, real = tmp_path / "run", fcntl.flock
    path.mkdir()
    removed = []

    def flock(handle, how):
        if not removed:
            removed.append((path / "run.lock").unlink())
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with rundir.claim(path):
        assert names(path) == ["run.lock"]


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").touch()
    with (
        pytest.raises(SpecError, match="holds something else than a run; name another with --out"),
        rundir.claim(tmp_path),
    ):
        pass
    with pytest.raises(SpecError, match="a run needs a directory, found a file"), rundir.claim(tmp_path / "letter.txt"):
        pass


def test_status_says_who_wrote_it(tmp_path):
    with rundir.claim(tmp_path / "run") as run:
        run.write("run.yaml", "")
        assert run.status() == {}
        run.set_status("diverged", 7, rule="non_finite", reason="nan")
        status = run.status()
    assert (status["state"], status["step"], status["rule"]) == ("diverged", 7, "non_finite")
    assert status["pid"] == os.getpid()

"""A run that was stopped, killed or damaged ends as one that never was."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from train_case import assert_same, series, state, train, trained_in, write_case

from runners import checkpoint
from runners.metrics import Metrics
from runners.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    with trained_in(folder):
        yield write_case(folder)


@pytest.fixture(scope="module")
def straight(tiny):
    """Run directories of undisturbed runs, trained when first asked for."""
    made = {}

    def run(*overrides):
        if overrides not in made:
            made[overrides] = tiny.parent / f"straight{len(made)}"
            assert train(tiny, made[overrides], *overrides) == 0
        return made[overrides]

    return run


def at_step(monkeypatch, number, act):
    """Do something in the middle of a step."""
    real = Trainer.step

    def step(self, n, *rest):
        if n == number:
            act()
        return real(self, n, *rest)

    monkeypatch.setattr(Trainer, "step", step)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


CASES = [
    ("train.precision=fp32", "train.micro_batch=4"),
    ("train.precision=fp32", "train.micro_batch=2", "set.block=sigma_reparam", "optim.z_loss=1e-3"),
    ("train.precision=bf16", "train.micro_batch=4", "set.block=sigma_reparam"),
    ("train.precision=bf16", "train.micro_batch=2", "optim.decay=independent", "schedule.decay=wsd"),
]


@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_stopping_changes_no_bit(tmp_path, tiny, straight, monkeypatch, overrides):
    out = tmp_path / "run"
    for number in (2, 6):
        with monkeypatch.context() as patch:
            at_step(patch, number, interrupt)
            assert train(tiny, out, *overrides) == 75
    assert train(tiny, out, *overrides) == 0
    assert_same(out, straight(*overrides))


def test_a_stopped_run_says_how_to_go_on(tmp_path, tiny, monkeypatch, capfd):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 5, interrupt)
        train(tiny, out)
    assert capfd.readouterr().out.endswith(f"{out}: stopped (SIGINT); the same command goes on after step 5\n")
    assert '"state": "stopped"' in (out / "status.json").read_text()
    train(tiny, out)
    assert "goes on after step 5\n" in capfd.readouterr().out


def test_a_second_signal_ends_at_once_without_harm(tmp_path, tiny, straight, monkeypatch, capfd):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: (interrupt(), interrupt()))
        assert train(tiny, out) == 75
    assert capfd.readouterr().out.endswith("stopped (at once); the same command goes on after step 3\n")
    assert train(tiny, out) == 0
    assert_same(out, straight())


def wait_for(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def start(tiny, out, *overrides):
    words = [sys.executable, "-m", "runners.train", str(tiny), *overrides, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_changes_no_bit(tmp_path, tiny):
    long = ("train.steps=200", "checkpoint.every=7")
    assert train(tiny, tmp_path / "straight", *long) == 0
    process = start(tiny, tmp_path / "run", *long)
    rows = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_bytes().count(b"\n") > 30, process)
    process.kill()
    process.communicate()
    assert '"state": "running"' in (tmp_path / "run" / "status.json").read_text()
    assert len(series(tmp_path / "run")) < 200
    assert train(tiny, tmp_path / "run", *long) == 0
    assert_same(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_process_saves_and_exits_75(tmp_path, tiny, number):
    process = start(tiny, tmp_path / "run", "train.steps=100000")
    rows = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_bytes().count(b"\n") > 5, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "")
    assert f"stopped ({number.name}); the same command goes on after step" in out
    assert state(tmp_path / "run")


def test_a_run_goes_on_when_the_reader_of_its_lines_goes_away(tmp_path, tiny, straight):
    process = start(tiny, tmp_path / "run")
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert (process.wait(), err) == (0, "")
    assert_same(tmp_path / "run", straight())


def killed_at(monkeypatch, module, name, number):
    """Let the process die, as far as its files can tell, at one call of a function."""
    real, calls = getattr(module, name), []

    def call(*arguments, **named):
        calls.append(name)
        if len(calls) == number:
            raise SystemExit("killed")
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, call)


MOMENTS = [(checkpoint, "sync", n) for n in (1, 4, 6, 7)] + [(checkpoint, "save_file", 4), (Metrics, "append", 6)]


@pytest.mark.parametrize(("module", "name", "number"), MOMENTS)
def test_dying_in_a_save_or_in_a_row_changes_no_bit(tmp_path, tiny, straight, monkeypatch, module, name, number):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        killed_at(patch, module, name, number)
        with pytest.raises(SystemExit):
            train(tiny, out)
    assert '"state": "failed"' in (out / "status.json").read_text()
    assert train(tiny, out) == 0
    assert_same(out, straight())


def test_a_damaged_checkpoint_is_named_on_stderr_and_the_one_before_is_used(
    tmp_path, tiny, straight, monkeypatch, capfd
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 8, interrupt)
        train(tiny, out)
    newest = out / "checkpoints" / "step-00000008"
    with (newest / "optim.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    capfd.readouterr()
    assert train(tiny, out) == 0
    told = capfd.readouterr()
    fault = "optim.safetensors does not have the sha256 of the manifest; it is kept as step-00000008.damaged0"
    assert told.err == f"warning: {newest} is damaged and passed over: {fault}\n"
    assert "goes on after step 6\n" in told.out
    assert_same(out, straight())


def test_a_resumed_run_diverges_at_the_step_of_an_undisturbed_one(tmp_path, tiny, monkeypatch):
    out, rule = tmp_path / "run", ("train.diverged.loss_above=1", "train.diverged.window=8")
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert train(tiny, out, *rule) == 75
    assert train(tiny, out, *rule) == 71
    assert series(out)[-1]["step"] == 8


def test_a_torn_row_is_repaired(tmp_path, tiny, straight, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 8, interrupt)
        train(tiny, out)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "lo')
    assert train(tiny, out) == 0
    assert_same(out, straight())


def test_a_constant_schedule_can_be_made_longer(tmp_path, tiny, straight):
    constant, out = "schedule.decay=constant", tmp_path / "run"
    assert train(tiny, out, constant, "train.steps=8") == 0
    assert train(tiny, out, constant) == 0
    assert_same(out, straight(constant))


def test_intervals_may_change_on_the_way(tmp_path, tiny, straight, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        train(tiny, out)
    assert train(tiny, out, "log.every=5", "checkpoint.every=50", "checkpoint.keep=3") == 0
    torch.testing.assert_close(state(out), state(straight()), rtol=0, atol=0)


def test_what_a_kill_left_beside_a_file_stops_nobody(tmp_path, tiny, straight):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".run.yaml.x1y2.tmp").write_text("run: ti")
    (out / "run.lock").touch()
    assert train(tiny, out) == 0
    assert_same(out, straight())
    assert not list(out.glob(".*"))


@pytest.fixture
def stopped(tmp_path, tiny, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        train(tiny, out)
    return out


def test_a_changed_key_is_refused_with_both_values(tiny, stopped, capfd):
    before = (stopped / "status.json").read_text()
    assert train(tiny, stopped, "optim.lr=1e-2") == 1
    told = f"optim.lr is 0.01, but {stopped} was started with 0.003; put it back, or name another directory with --out"
    assert capfd.readouterr().err == f"<command line>: error: {told}\n"
    assert (stopped / "status.json").read_text() == before


def test_a_changed_text_is_refused(tiny, stopped, capfd):
    words = tiny.parent / "words.txt"
    original = words.read_text()
    try:
        words.write_text(original.replace("a", "b", 100))
        assert train(tiny, stopped) == 1
    finally:
        words.write_text(original)
    lines = [line.replace(f"{tiny}:", "") for line in capfd.readouterr().err.splitlines() if "error" in line]
    hint = "put it back, or name another directory with --out"
    assert lines == [
        f"3:7: error: the data is not the one that {stopped} was started with; {hint}",
        f"4:12: error: the tokenizer is not the one that {stopped} was started with; {hint}",
    ]


def test_a_changed_spec_is_refused_with_the_difference(tmp_path, tiny, capfd, monkeypatch):
    from blockgraph.library import shipped

    block, out = tiny.parent / "own.yaml", tmp_path / "run"
    text = shipped()["qk_norm"].read_text()
    block.write_text(text)
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert train(tiny, out, f"set.block={block}") == 75
    block.write_text(text.replace("squared_relu", "gelu"))
    capfd.readouterr()
    assert train(tiny, out, f"set.block={block}") == 1
    told = capfd.readouterr().err
    assert f"the model is not the one that {out} was started with" in told
    assert re.search(r"run/model.yaml:\d+:1: error: was 'act: .*squared_relu.*', is now 'act: .*gelu.*'\n", told)


@pytest.mark.slow  # compiles for half a minute
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at that of every tensor
def test_stopping_changes_no_bit_of_a_compiled_run(tmp_path, tiny, straight, monkeypatch):
    out, overrides = tmp_path / "run", ("train.compile=true", "set.n_layers=1", "train.steps=6")
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert train(tiny, out, *overrides) == 75
    assert train(tiny, out, *overrides) == 0
    assert_same(out, straight(*overrides))

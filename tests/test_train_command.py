"""`blockgraph train` as its user meets it: what it writes, says and returns."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console
from train_case import series, train, trained_in, write_case

from blockgraph import files
from runners import runfile
from runners import train as command
from runners.metrics import rows
from runners.progress import Progress, clock
from runners.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    with trained_in(folder):
        yield write_case(folder)


@pytest.fixture(scope="module")
def finished(tiny):
    out = tiny.parent / "finished"
    assert train(tiny, out, "optim.z_loss=1e-4", "log.every=5") == 0
    return out


def status(out):
    return json.loads((out / "status.json").read_text())


def test_a_run_directory_holds_all_that_happened(finished):
    files = {"metrics.jsonl", "model.py", "model.yaml", "run.lock", "run.yaml", "status.json", "tokenizer.model"}
    assert {path.name for path in finished.iterdir()} == files | {"checkpoints", "probes"}
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]
    run = runfile.load(finished / "run.yaml").config
    assert (run.optim.z_loss, run.set["block"], run.schedule.final) == (1e-4, "qk_norm", 0.1)


def test_rows_are_logged_at_the_first_the_last_and_every_nth_step(finished):
    told = rows(finished / "metrics.jsonl")
    assert [row["step"] for row in told] == [1, 4, 5, 8, 10, 12]
    assert [row["step"] for row in told if "val_loss" in row] == [4, 8, 12]
    keys = {"step", "loss", "grad_norm", "lr", "tokens", "tokens_per_s", "z_loss"}
    assert all(row.keys() - {"val_loss", "val_bits_per_byte"} == keys for row in told)
    assert [row["tokens"] for row in told] == [64 * row["step"] for row in told]
    assert [row["lr"] for row in told][:2] == pytest.approx([1e-3, 2.918585e-3], rel=1e-6)
    assert 0 < told[0]["z_loss"] < 1e-4 * 8**2 < told[0]["loss"]


def test_the_status_of_a_finished_run_reports_its_last_row(finished):
    last = rows(finished / "metrics.jsonl")[-1]
    said = status(finished)
    assert (said["state"], said["step"]) == ("finished", 12)
    assert {key: said[key] for key in ("loss", "val_loss", "val_bits_per_byte")}.items() <= last.items()


def test_the_saved_model_text_gives_the_saved_weights_their_meaning(finished):
    from safetensors.torch import load_file

    module = sys.modules["saved"] = ModuleType("saved")
    exec((finished / "model.py").read_text(), vars(module))
    model = module.build(0)
    model.load_state_dict(load_file(finished / "checkpoints" / "step-00000012" / "model.safetensors"))
    assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 300)


def test_a_finished_run_started_again_says_so(tiny, finished, capfd):
    assert train(tiny, finished, "optim.z_loss=1e-4", "log.every=5") == 0
    assert capfd.readouterr().out.startswith(f"{finished}: finished after step 12: validation loss ")


def test_a_seed_decides_every_number(tmp_path, tiny):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train(tiny, tmp_path / name, f"train.seed={seed}") == 0
    assert series(tmp_path / "a") == series(tmp_path / "b")
    assert series(tmp_path / "a")[0]["loss"] != series(tmp_path / "c")[0]["loss"]


def test_the_loss_falls(tmp_path, tiny):
    assert train(tiny, tmp_path / "run", "train.steps=60", "optim.lr=1e-2") == 0
    losses = [row["loss"] for row in series(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.5


def test_plain_lines_say_where_the_run_is(tmp_path, tiny, capfd):
    train(tiny, tmp_path / "run", "log.every=6")
    out = capfd.readouterr().out.splitlines()
    assert out[0].startswith(
        "tiny: gpt block=qk_norm n_layers=2 d_model=16 n_heads=2, 15,856 parameters, fp32 on the CPU"
    )
    assert out[1].startswith("12 steps of 64 tokens: ")
    assert out[2] == "validation: the same 64 held-out tokens, every 4 steps"
    assert out[3] == "loss: plain (auto: the logits of a micro-batch take 0.1 MiB)"
    assert out[5] == "compile: off (auto: 12 steps are too few, compiling takes about 50 s)"
    steps = [line for line in out if line.startswith("step ") and "tok/s" in line]
    assert [line[: len("step 12/12")] for line in steps] == [f"step {number:>2}/12" for number in (1, 4, 6, 8, 12)]
    figures = r"loss \d\.\d{4}  grad [\d.]+  [\d,]+ tok/s  [\d.]+% of peak  0:00 left"
    assert re.fullmatch(f"step 12/12  {figures}", steps[-1])
    found = r"validation loss \d\.\d{4}, perplexity [\d.]+, \d\.\d{3} bits per byte"
    assert re.fullmatch(f"step 12: {found}", next(line for line in out if line.startswith("step 12: ")))
    assert re.fullmatch(f"{tmp_path}/run: finished after step 12: {found}", out[-1])


def test_a_run_whose_loss_stays_above_the_bound_ends_as_diverged(tmp_path, tiny, capfd):
    out, rule = tmp_path / "run", ("train.diverged.loss_above=1", "train.diverged.window=5")
    assert train(tiny, out, *rule) == 71
    said = status(out)
    assert (said["state"], said["step"], said["rule"]) == ("diverged", 5, "loss_above")
    assert said["reason"].endswith("was above 1 for 5 steps in a row")
    assert series(out)[-1]["step"] == 5
    capfd.readouterr()
    assert train(tiny, out, *rule) == 71
    assert capfd.readouterr().out == f"{out}: diverged after step 5: {said['reason']}\n"


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, tiny, monkeypatch):
    real = Trainer._losses

    def losses(self, *given):
        loss, *others = real(self, *given)
        return (loss * (float("nan") if self.optimizer.state_dict()["state"] else 1.0), *others)

    monkeypatch.setattr(Trainer, "_losses", losses)
    assert train(tiny, tmp_path / "run") == 70
    said = status(tmp_path / "run")
    assert (said["state"], said["step"], said["rule"]) == ("diverged", 1, "non_finite")
    assert said["reason"] == "the loss of step 2 is nan"
    assert [row["step"] for row in series(tmp_path / "run")] == [1]


def test_a_full_disk_ends_the_run_with_one_line(tmp_path, tiny, monkeypatch, capfd):
    out, real, calls = tmp_path / "run", os.write, []

    def write(handle, data):
        calls.append(data)
        if data.startswith(b'{"step": 5'):
            real(handle, data[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert train(tiny, out) == 74
    told = "No space left on device; what was saved before stands, and the same command goes on from it"
    assert capfd.readouterr().err == f"{out}: error: {told}\n"
    assert (status(out)["state"], status(out)["step"]) == ("failed", 5)
    assert train(tiny, out) == 0
    assert "goes on after step 3" in capfd.readouterr().out
    assert [row["step"] for row in series(out)] == list(range(1, 13))


def test_a_disk_without_room_for_a_checkpoint_is_told_before_the_first_step(tmp_path, tiny, monkeypatch, capfd):
    from runners.checkpoint import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert train(tiny, tmp_path / "run") == 74
    told = capfd.readouterr().err
    assert told.startswith(f"{tmp_path}/run/checkpoints: error: a checkpoint takes 1")
    assert "but 1,000 are free; what was saved" in told
    assert not (tmp_path / "run").exists()


def test_a_fault_of_ours_is_recorded_and_not_hidden(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(Trainer, "evaluate", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny, tmp_path / "run")
    said = status(tmp_path / "run")
    assert (said["state"], said["step"], said["reason"]) == ("failed", 4, "ZeroDivisionError: division by zero")


MISTAKES = {
    "model=gtp": "<command line>: error: no spec is called 'gtp'; did you mean 'gpt'?",
    "set.block=qk_nrm": "<command line>: error: no spec is called 'qk_nrm'; did you mean 'qk_norm'?",
    "set.n_layer=3": "<command line>: error: no dim or slot is called 'n_layer'; did you mean 'n_layers'?",
    "set.vocab=256": "<command line>: error: the model has 256 logits, but the tokenizer has 300 pieces",
    "data.train=[{path: none.txt}]": "none.txt:1:1: error: no such file",
}


@pytest.mark.parametrize(("override", "told"), MISTAKES.items())
def test_mistakes_are_one_line_and_leave_nothing_behind(tmp_path, tiny, capfd, override, told):
    assert train(tiny, tmp_path / "run", override) == 1
    assert capfd.readouterr().err == f"{told}\n".replace("none.txt", f"{Path.cwd()}/none.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_told(tmp_path, tiny, monkeypatch, capfd):
    def refuse(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")  # as in /proc

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert train(tiny, tmp_path / "run") == 1
    told = "cannot make the directory of the run; name another with --out"
    assert capfd.readouterr().err == f"{tmp_path}/run: error: {told}\n"


def test_a_damaged_status_is_told(tmp_path, tiny, finished, capfd):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "status.json").write_text("{")
    assert train(tiny, tmp_path / "run", "optim.z_loss=1e-4", "log.every=5") == 1
    told = "not what was written; remove it, and the run goes on from its checkpoint"
    assert capfd.readouterr().err == f"{tmp_path}/run/status.json: error: {told}\n"


def test_a_block_alone_is_not_trained(tmp_path, tiny, capfd):
    assert train(tiny, tmp_path / "run", "model=qk_norm", "set={}") == 1
    told = "'qk_norm' is a block, not a model; give it to a slot: set.block"
    assert capfd.readouterr().err == f"<command line>: error: {told}\n"


def test_a_missing_run_file_is_told(tmp_path, capfd):
    assert train(tmp_path / "none.yaml", tmp_path / "run") == 1
    assert capfd.readouterr().err == f"{tmp_path}/none.yaml: error: cannot read the file: No such file or directory\n"


@pytest.mark.parametrize("words", [[], ["run.yaml", "lr"], ["run.yaml", "--outt", "x"]])
def test_wrong_usage_exits_2(words):
    with pytest.raises(SystemExit) as error:
        command.command(words)
    assert error.value.code == 2


def test_help_shows_an_example_and_every_exit_code(capsys):
    with pytest.raises(SystemExit) as error:
        command.command(["--help"])
    told = capsys.readouterr().out
    assert error.value.code == 0
    assert "blockgraph train specs/runs/demo.yaml" in told
    assert all(f"  {code:<4}" in told for code in (0, 1, 2, 70, 71, 72, 74, 75, 124))


def test_a_mistake_is_told_before_torch_is_imported(tmp_path, tiny):
    program = """import sys
from runners.train import command
assert command(sys.argv[1:]) == 1
assert "torch" not in sys.modules"""
    words = [sys.executable, "-c", program, str(tiny), "set.block=qk_nrm", "--out", str(tmp_path / "run")]
    subprocess.run(words, check=True, capture_output=True)


def test_paths_of_a_run_file_start_from_its_folder_and_those_typed_from_here(tmp_path, tiny, monkeypatch):
    from blockgraph.library import shipped

    (tiny.parent / "mine.yaml").write_text(shipped()["soft_cap"].read_text())
    text = tiny.read_text().replace("block: qk_norm", "block: ./mine.yaml")
    (tiny.parent / "own.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert train(tiny.parent / "own.yaml", Path("a"), "train.steps=4") == 0
    Path("here.yaml").write_text(shipped()["qk_norm"].read_text())
    assert train(tiny, Path("b"), "train.steps=4", "set.block=./here.yaml") == 0


def test_texts_and_tokenizers_typed_on_the_command_line_start_from_here(tmp_path, tiny, finished, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here.txt").write_text((tiny.parent / "words.txt").read_text())
    Path("here.model").write_bytes((finished / "tokenizer.model").read_bytes())
    typed = ("data.train=[{path: here.txt}]", "tokenizer={path: here.model}", "train.steps=4")
    assert train(tiny, Path("run"), *typed) == 0
    run = runfile.load("run/run.yaml").config
    assert (run.data.train[0].path, run.tokenizer.path) == (f"{tmp_path}/here.txt", f"{tmp_path}/here.model")


def test_a_terminal_shows_one_line_that_moves():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    with Progress(10, console) as progress:
        progress.step(5, "step  5/10  loss 1", logged=True)
        progress._live.refresh()
        progress.say("step 5: validation")
    assert "━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌ step  5/10  loss 1" in screen.getvalue()
    assert "step 5: validation\n" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36_610, "10:10:10")])
def test_time_left_is_told_as_a_clock(seconds, told):
    assert clock(seconds) == told


def test_whole_files_are_on_the_disk_before_they_are_named(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("sync"))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), real(*names)))
    files.save(tmp_path / "a", b"1")
    assert order == ["sync", "rename", "sync"]

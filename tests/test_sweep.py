"""`blockgraph sweep` as its user meets it: what runs, what is told, what a stop, a crash or a second start changes."""

import fcntl
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from threading import Event, Thread
from types import SimpleNamespace

import pytest
from sweep_case import STUDY, begun, story, sweep, waited, write_study
from train_case import assert_same, trained_in

from blockgraph.errors import SpecError
from runners import report, study, train
from runners.rundir import LOCK, lock
from runners.studies import cluster, estimate, local
from runners.studies.directory import claim
from runners.sweep import FAILED, command
from runners.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with trained_in(folder) as patch:
        # Another test may have left threads of OpenMP here, of which a forked process has none but waits for them.
        patch.setattr(local, "cores", lambda: 1)
        yield write_study(folder)


@pytest.fixture(scope="module")
def straight(tiny):
    """The directory of a study that nothing disturbed."""
    out = tiny.parent / "straight"
    assert sweep(tiny, out, "--jobs", "2") == 0
    return out


def test_every_cell_of_the_grid_is_run(straight):
    found = study.read(straight)
    assert [cell.name for cell in found.cells] == [
        "baseline-lr0.001", "baseline-lr0.01", "qk_norm-lr0.001", "qk_norm-lr0.01",
    ]  # fmt: skip
    assert {cell.state for cell in found.cells} == {"finished"}
    assert found.cells[1].settings == {"block": "baseline", "optim.lr": 0.01}
    assert found.axes == {"block": ["baseline", "qk_norm"], "optim.lr": [1e-3, 1e-2]}
    assert found.search == {"low": 1e-3, "high": 1000, "factor": 8}
    assert found.cells[0].facts["step"] == 8


def test_a_cell_is_the_plain_command_of_its_file(tmp_path, straight):
    for name in ("baseline-lr0.001", "qk_norm-lr0.01"):
        assert train.command([str(straight / f"cells/{name}.yaml"), "--out", str(tmp_path / name)]) == 0
        assert_same(tmp_path / name, straight / "cells" / name)


def test_a_study_that_is_over_runs_nothing_again(tiny, straight, monkeypatch, capfd):
    monkeypatch.setattr(local, "forked", None)
    assert sweep(tiny, straight) == 0
    assert capfd.readouterr().out.startswith(f"{straight}: 4 cells: 4 finished\n")


def test_only_what_is_missing_is_run(tmp_path, tiny, straight, capfd):
    out = tmp_path / "study"
    shutil.copytree(straight, out)
    shutil.rmtree(out / "cells/qk_norm-lr0.001")
    assert sweep(tiny, out) == 0
    told = capfd.readouterr().out
    assert re.findall(r"^(\S+): started$", told, flags=re.M) == ["qk_norm-lr0.001"]
    assert "[1/1] qk_norm-lr0.001: finished: validation loss " in told
    assert story(out) == story(straight)


def test_more_values_on_an_axis_add_cells_and_leave_the_others(tmp_path, tiny, straight, capfd):
    out = tmp_path / "study"
    shutil.copytree(straight, out)
    more = tiny.with_name("more.yaml")
    more.write_text(STUDY.replace("[1e-3, 1e-2]", "[1e-3, 1e-2, 2e-2]"))
    assert sweep(more, out) == 0
    assert [cell.name for cell in study.read(out).cells if cell.settings["optim.lr"] == 0.02] == [
        "baseline-lr0.02", "qk_norm-lr0.02",
    ]  # fmt: skip
    assert story(out).items() >= story(straight).items()


def test_a_cell_that_was_begun_otherwise_is_refused_before_anything_is_written(tiny, straight, capfd):
    other = tiny.with_name("other.yaml")
    other.write_text(STUDY.replace("steps: 8", "steps: 9"))
    before = (straight / "study.yaml").read_text()
    assert sweep(other, straight) == 1
    told = capfd.readouterr().err
    assert told.startswith(
        f"{other}:3:22: error: train.steps is 9, but {straight}/cells/baseline-lr0.001 was started with 8; "
    )
    assert (straight / "study.yaml").read_text() == before


def test_a_diverged_cell_ends_early_and_keeps_curve_and_reason(tmp_path, tiny):
    wild = tiny.with_name("wild.yaml")
    wild.write_text(STUDY.replace("[1e-3, 1e-2]", "[1e-3, 1000]").replace("[baseline, qk_norm]", "[baseline]"))
    assert sweep(wild, tmp_path / "out") == 0
    calm, burst = study.read(tmp_path / "out").cells
    assert (calm.state, burst.state) == ("finished", "diverged")
    assert burst.facts["step"] < 8
    assert burst.facts["rule"] in ("loss_above", "non_finite")
    assert burst.facts["reason"]
    assert burst.metrics.exists()


def test_a_cell_that_crashes_is_told_and_the_others_go_on(tmp_path, tiny, capfd, monkeypatch):
    out, real = tmp_path / "out", train.command

    def crash(words):
        if "baseline-lr0.01.yaml" in words[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        if "qk_norm-lr0.001.yaml" in words[0]:
            raise RuntimeError("this op is broken")
        return real(words)

    monkeypatch.setattr(train, "command", crash)
    assert sweep(tiny, out) == FAILED
    cells = {cell.name: cell for cell in study.read(out).cells}
    assert [cell.state for cell in cells.values()] == ["finished", "failed", "failed", "finished"]
    assert cells["baseline-lr0.01"].facts["reason"] == "killed by SIGKILL"
    assert cells["qk_norm-lr0.001"].facts["reason"] == "RuntimeError: this op is broken"
    assert "baseline-lr0.01: failed: killed by SIGKILL" in capfd.readouterr().out
    monkeypatch.setattr(train, "command", real)
    assert sweep(tiny, out) == 0
    assert {cell.state for cell in study.read(out).cells} == {"finished"}
    assert not study.failures_of(out)


def test_a_cell_that_is_refused_is_told_with_its_error(tmp_path, tiny, capfd):
    taken = tmp_path / "out/cells/baseline-lr0.01"
    assert sweep(tiny, tmp_path / "out", "--engine", "commands") == 0
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    assert sweep(tiny, tmp_path / "out", "--jobs", "2") == FAILED
    told = f"{taken}: error: the directory holds something else than a run; name another with --out"
    assert study.read(tmp_path / "out").cells[1].facts["reason"] == told


def test_two_sweeps_never_write_one_directory(tmp_path, tiny, capfd):
    with claim(tmp_path / "out"):
        assert sweep(tiny, tmp_path / "out") == 65
    told = capfd.readouterr().err
    assert told.startswith(f"{tmp_path}/out: error: process {os.getpid()} on ")
    assert told.endswith("is writing this study; stop it, or name another directory with --out\n")


def test_one_who_looks_whether_a_run_is_written_keeps_nobody_out(tmp_path, monkeypatch):
    os.close(lock(tmp_path, LOCK, "run"))
    looking = Event()

    def slow(file, how):
        fcntl.flock(file, how)
        looking.set()
        time.sleep(0.03)

    monkeypatch.setattr(study, "fcntl", SimpleNamespace(flock=slow, LOCK_SH=fcntl.LOCK_SH, LOCK_NB=fcntl.LOCK_NB))
    reader = Thread(target=study.held, args=(tmp_path,))
    reader.start()
    looking.wait()
    os.close(lock(tmp_path, LOCK, "run"))
    reader.join()


def test_a_directory_of_something_else_is_left_alone(tmp_path, tiny, capfd):
    (tmp_path / "thesis.txt").write_text("mine")
    assert sweep(tiny, tmp_path) == 1
    assert capfd.readouterr().err == (
        f"{tmp_path}: error: the directory holds something else than a study; name another with --out\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "sweep.lock"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_cells_at_a_checkpoint_and_the_same_command_goes_on(tmp_path, tiny, straight, number):
    out, real = tmp_path / "out", Trainer.step

    def slow(*arguments):
        time.sleep(0.2)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", slow)
        child = begun(tiny, out, "--jobs", "2")
    until(lambda: any(out.glob("cells/*/status.json")))
    os.kill(child, number)
    assert waited(child) == 75
    assert "stopped" in {cell.state for cell in study.read(out).cells}
    told = (tiny.parent / "out.log").read_text()
    assert told.endswith("stopped; the same command goes on\n")
    assert f"{number.name}: every cell stops at a checkpoint" in told
    assert "running" not in {cell.state for cell in study.read(out).cells}
    assert sweep(tiny, out, "--jobs", "2") == 0
    assert story(out) == story(straight)


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_started_again_it_ends_the_same(tmp_path, tiny, straight, kills):
    draw, out = random.Random(kills), tmp_path / "out"
    for _ in range(kills):
        child = begun(tiny, out, "--jobs", "2")
        time.sleep(draw.uniform(0, 2))
        os.kill(child, signal.SIGKILL)
        waited(child)
    assert waited(begun(tiny, out, "--jobs", "2")) == 0
    assert story(out) == story(straight)
    assert not list(out.rglob(".*.tmp"))
    assert reported(out, tmp_path / "one") == reported(straight, tmp_path / "other")


def reported(found, folder):
    """The bytes of every file of a study's report."""
    assert report.command([str(found), "-o", str(folder)]) == 0
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def until(happened, seconds=60):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_dry_run_lists_the_cells_and_writes_nothing(tmp_path, tiny, capfd):
    assert sweep(tiny, tmp_path / "out", "--dry-run", "--jobs", "2") == 0
    head, *cells, _, total, basis = capfd.readouterr().out.splitlines()
    assert head.split() == ["cell", "parameters", "tokens", "time", "state"]
    assert [line.split()[0] for line in cells] == [
        "baseline-lr0.001", "baseline-lr0.01", "qk_norm-lr0.001", "qk_norm-lr0.01",
    ]  # fmt: skip
    assert {line.split()[-1] for line in cells} == {"missing"}
    assert {line.split()[2] for line in cells} == {f"{8 * 4 * 16}"}
    assert re.fullmatch(r"4 of 4 cells to run: 2,048 tokens, about [\d:]+ with 2 at once", total)
    assert basis.startswith("time: 3 steps and a validation of each kind of cell, taken here just now, processor time")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("jobs", "expected"), [(1, 10.0), (2, 7.0), (3, 6.0), (256, 5.0)])
def test_a_study_takes_no_less_time_than_its_longest_cell(jobs, expected):
    assert estimate.together([1.0, 3.0, 1.0, 5.0], jobs) == pytest.approx(expected)


def test_a_dry_run_for_a_cluster_waits_for_the_longest_cell(tmp_path, tiny, capfd):
    wide = tiny.with_name("wide.yaml")
    wide.write_text(f"{STUDY.replace('steps: 8', 'steps: 100000000')}slurm: {{gpus: 1, at_once: 256}}\n")
    assert sweep(wide, tmp_path / "out", "--dry-run") == 0
    _, *cells, _, total, _ = capfd.readouterr().out.splitlines()
    times = {line.split()[3] for line in cells}
    assert len(times) == 1
    assert f"about {times.pop()} with 256 at once" in total


def test_a_dry_run_knows_what_has_ended(tiny, straight, capfd):
    assert sweep(tiny, straight, "--dry-run") == 0
    assert "0 of 4 cells to run: 0 tokens, about 0:00 with 1 at once" in capfd.readouterr().out


def test_commands_for_any_scheduler_run_what_is_left(tmp_path, tiny, straight, capfd):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    for name in ("baseline-lr0.001", "qk_norm-lr0.01"):
        shutil.rmtree(out / "cells" / name)
    assert sweep(tiny, out, "--engine", "commands") == 0
    lines = [shlex.split(line) for line in capfd.readouterr().out.splitlines()]
    assert [words[:2] for words in lines] == [["blockgraph", "train"]] * 2
    for words in lines:
        assert train.command(words[2:]) == 0
    assert story(out) == story(straight)


def test_several_devices_are_a_matter_of_torchrun(tmp_path, tiny, capfd):
    wide = tiny.with_name("wide.yaml")
    wide.write_text(f"{STUDY}slurm: {{gpus: 4}}\n")
    assert sweep(wide, tmp_path / "out", "--engine", "commands") == 0
    first = shlex.split(capfd.readouterr().out.splitlines()[0])
    assert first[:6] == ["torchrun", "--standalone", "--nproc-per-node", "4", "-m", "runners.train"]


class RefusedError(RuntimeError):
    """Stands in for submitit's own."""


class Submitit:
    """Stands in for submitit: remembers what it was given."""

    def __init__(self):
        self.parameters, self.commands, self.batches, self.refuses = {}, [], 0, ""
        self.helpers = SimpleNamespace(CommandFunction=list)
        self.core = SimpleNamespace(utils=SimpleNamespace(FailedJobError=RefusedError))

    def AutoExecutor(self, folder, cluster):
        assert cluster == "slurm"
        return self

    def update_parameters(self, **parameters):
        self.parameters = parameters

    def batch(self):
        self.batches += 1
        return nullcontext()

    def submit(self, words):
        if self.refuses:
            raise RefusedError(self.refuses)
        self.commands.append(words)
        return SimpleNamespace(job_id=f"7_{len(self.commands)}")


def test_slurm_gets_one_array_of_the_cells_that_are_left(tmp_path, tiny, capfd, monkeypatch):
    stand_in = Submitit()
    monkeypatch.setitem(sys.modules, "submitit", stand_in)
    wide = tiny.with_name("slurm.yaml")
    wide.write_text(f"{STUDY}slurm: {{partition: long, gpus: 1, minutes: 90, at_once: 3}}\n")
    assert sweep(wide, tmp_path / "out", "--engine", "slurm") == 0
    assert stand_in.batches == 1
    assert [words[:2] for words in stand_in.commands] == [["blockgraph", "train"]] * 4
    asked = {"slurm_partition": "long", "timeout_min": 90, "slurm_array_parallelism": 3, "gpus_per_node": 1}
    assert stand_in.parameters.items() >= asked.items()
    assert "slurm_account" not in stand_in.parameters
    assert capfd.readouterr().out.endswith("4 cells handed over, 0 in the queue already\n")
    monkeypatch.setattr(cluster, "_queue", lambda: {"7_1", "7_3", "7_4"})
    assert sweep(wide, tmp_path / "out", "--engine", "slurm") == 0
    assert len(stand_in.commands) == 5, "the one whose job is over, without having ended the cell"
    assert stand_in.commands[4] == stand_in.commands[1]


def test_what_slurm_refuses_is_told_with_what_was_asked_for(tmp_path, tiny, capfd, monkeypatch):
    stand_in = Submitit()
    stand_in.refuses = "sbatch: error: Invalid generic resource\n(gres) specification"
    monkeypatch.setitem(sys.modules, "submitit", stand_in)
    assert sweep(tiny, tmp_path / "out", "--engine", "slurm") == 1
    assert capfd.readouterr().err == (
        "--engine slurm: error: Slurm took no job: sbatch: error: Invalid generic resource (gres) specification; "
        "a cell asks for 1 GPU and 8 cores; `slurm: {gpus: 0, cpus: 1}` in the study asks for less\n"
    )


@pytest.mark.parametrize(("script", "told"), [("echo 7_1; echo 9", {"7_1", "9"}), ("echo no >&2; exit 1", "no")])
def test_the_queue_is_what_squeue_says(tmp_path, monkeypatch, script, told):
    stand_in = tmp_path / "squeue"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if isinstance(told, set):
        assert cluster._queue() == told
    else:
        with pytest.raises(SpecError, match=f"the queue cannot be read: {told}"):
            cluster._queue()


def test_slurm_without_its_package_is_told(tmp_path, tiny, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert sweep(tiny, tmp_path / "out", "--engine", "slurm") == 1
    told = (
        "--engine slurm: error: it needs the package submitit; pip install 'blockgraph[slurm]', or --engine commands\n"
    )
    assert capfd.readouterr().err == told


def test_the_search_finds_the_edge_and_goes_on_from_what_it_knows(tmp_path, tiny, capfd):
    out = tmp_path / "out"
    assert sweep(tiny, out, "--max-lr", "--jobs", "2") == 0
    first = story(out)
    edges = [line for line in capfd.readouterr().out.splitlines() if line.startswith("block ")]
    assert [line.partition(":")[0] for line in edges] == ["block baseline", "block qk_norm"]
    for line in edges:
        stable, diverged = map(float, re.findall(r"learning rate of (\S+?)[;,] .*?([\d.e+-]+)$", line)[0])
        assert 1 < diverged / stable <= 8
    probes = [cell for cell in study.read(out).cells if cell.probe]
    assert all(cell.ended for cell in probes)
    for cell in probes[1::2]:
        shutil.rmtree(cell.directory)
    assert sweep(tiny, out, "--max-lr", "--jobs", "2") == 0
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("block ")] == edges
    again = {cell.name for cell in study.read(out).cells if cell.ended}  # one that no longer decides stays away
    assert {name: told for name, told in story(out).items() if name in again} == {name: first[name] for name in again}
    grid = {cell.name for cell in study.read(out).cells if not cell.probe and cell.settings["optim.lr"] == 0.01}
    assert not grid & again, "the grid was not asked for"


def test_wrong_usage_is_2_and_help_has_an_example(tiny, capfd):
    for words in ([], [str(tiny), "--jobs", "0"], [str(tiny), "--engine", "ray"]):
        with pytest.raises(SystemExit) as ended:
            command(words)
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    assert ended.value.code == 0
    told = capfd.readouterr().out
    assert "blockgraph sweep specs/studies/smoke.yaml --dry-run" in told
    assert "exit codes:" in told

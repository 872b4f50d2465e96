"""Whether a run is compiled: as asked for, as it began, or where that saves more than it takes."""

import json
from dataclasses import replace

import pytest
import torch
from train_case import train, write_case

import blockgraph
from runners import compiling, runfile
from runners.checkpoint import Checkpoints

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RATE = 1e11  # FLOP/s


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(compiling, "matmul_peak", lambda device, dtype: RATE)
    return runfile.load(write_case(tmp_path))


@pytest.fixture
def graph():
    return blockgraph.load("gpt", n_layers=2, d_model=16, n_heads=2, vocab=300)


def asking(run, **train):
    config = run.config
    return replace(run, config=config.model_copy(update={"train": config.train.model_copy(update=train)}))


def decided(run, graph, steps, **more):
    return compiling.compiling(asking(run, steps=steps, **more), graph, CPU)


@pytest.mark.parametrize("choice", [True, False])
def test_what_is_asked_for_is_done(run, graph, choice):
    found = decided(run, graph, 1, compile=choice)
    assert str(found) == f"{'blocks and loss' if choice else 'off'} (as asked for)"


def test_auto_compiles_from_the_step_on_at_which_it_saves_twice_what_it_takes(run, graph):
    cost = compiling.compile_seconds(graph)
    each = compiling.SAVED * compiling.step_seconds(run, graph, RATE)
    least = int(compiling.SAFETY * cost / each) + 1
    assert [decided(run, graph, steps).on for steps in (1, least - 1, least, 10 * least)] == [False, False, True, True]
    saved = round(least * each)
    assert str(decided(run, graph, least)) == f"blocks and loss (auto: takes about 50 s, saves about {saved:,} s)"


def test_a_kind_of_block_costs_once_however_many_layers_it_has(graph):
    deep = blockgraph.load("gpt", n_layers=24, d_model=16, n_heads=2, vocab=300)
    assert compiling.compile_seconds(deep) == compiling.compile_seconds(graph) == 2 * compiling.SECONDS


def test_a_step_takes_the_longer_the_more_it_computes_and_the_slower_the_machine(run, graph):
    deep = blockgraph.load("gpt", n_layers=24, d_model=16, n_heads=2, vocab=300)
    usual = compiling.step_seconds(run, graph, RATE)
    assert compiling.step_seconds(run, deep, RATE) > 5 * usual
    assert compiling.step_seconds(run, graph, RATE / 100) > usual
    assert compiling.step_seconds(asking(run, micro_batch=1), graph, RATE) > usual


def test_a_machine_is_measured_once_so_that_equal_runs_choose_alike(run, graph, monkeypatch, tmp_path):
    first = decided(run, graph, 10**6)
    monkeypatch.setattr(compiling, "matmul_peak", lambda device, dtype: 1e6)
    assert decided(run, graph, 10**6) == first
    assert list(json.loads((tmp_path / "cache" / compiling.RATES).read_text()).values()) == [RATE]


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": "fast"}', '{"a": null}'])
def test_a_damaged_measurement_is_taken_again(run, graph, tmp_path, damage):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / compiling.RATES).write_text(damage)
    assert decided(run, graph, 10**7).on


def test_without_a_compiler_auto_does_not_compile(run, graph, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert str(decided(run, graph, 10**9)) == "off (auto: there is no C++ compiler)"


def test_on_cuda_auto_compiles(run, graph):
    assert str(compiling.compiling(run, graph, CUDA)) == "blocks and loss (auto on cuda)"


@pytest.mark.parametrize("steps", [1, 10**9])
@pytest.mark.parametrize("on", [True, False])
def test_a_run_that_goes_on_keeps_to_its_choice(run, graph, steps, on):
    kept = compiling.recorded(compiling.Compiling(on, "then"))
    found = compiling.compiling(asking(run, steps=steps), graph, CPU, kept=kept)
    assert found == compiling.Compiling(on, "auto, when the run began")


def test_a_run_keeps_its_choice_in_its_checkpoints(run, tmp_path):
    assert train(run.path, tmp_path / "run", "train.steps=4") == 0
    saved = Checkpoints(tmp_path / "run" / "checkpoints", 2).newest(pytest.fail)
    assert saved.state["inputs"][compiling.KEY] == "off"

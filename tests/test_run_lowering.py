"""A run chooses how its attention is computed once, writes that down, and keeps to it when it goes on."""

import json

import pytest
import torch
from train_case import state, train, write_case

import blockgraph
from blockgraph.fused import FUSIONS
from blockgraph.graph import Graph
from blockgraph.kernels import native
from runners import inputs, lowering, runfile
from runners.checkpoint import Checkpoints
from runners.launch import Launch
from runners.spec import graph_of
from runners.world import World

CORE = "qk_norm.attn.bmm2"
STEPS = "(bmm1, mask, softmax, bmm2)"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("lowering"))


def kept(out):
    return Checkpoints(out / "checkpoints", 2).newest(print).state["inputs"]["lowering"]


@pytest.mark.parametrize("asked", ["auto", "explicit", "sdpa", "blockwise"])
def test_the_choice_and_its_reason_are_said_and_written_down(tiny, tmp_path, capsys, asked):
    taken, why = ("explicit", "auto: none of the others is better here") if asked == "auto" else (asked, "as asked for")
    assert train(tiny, tmp_path / "run", f"train.lowering={asked}", "train.steps=4") == 0
    said = f"{CORE} {STEPS}: {taken} ({why})"
    assert f"lowering: {said}\n" in " ".join(capsys.readouterr().out.split(" ")).replace("\n ", " ")
    assert f"Lowered {said}." in (tmp_path / "run" / "model.py").read_text()
    assert json.loads(kept(tmp_path / "run")) == {CORE: taken}


def test_a_stopped_run_goes_on_in_blocks_bit_for_bit(tiny, tmp_path):
    asked = ("train.lowering=blockwise", "train.precision=bf16", "schedule.decay=constant")
    assert train(tiny, tmp_path / "whole", *asked) == 0
    assert train(tiny, tmp_path / "parts", *asked, "train.steps=6") == 0
    assert train(tiny, tmp_path / "parts", *asked) == 0
    torch.testing.assert_close(state(tmp_path / "parts"), state(tmp_path / "whole"), rtol=0, atol=0)


def graph_for(run, device, before=None) -> Graph:
    return lowering.lowered(
        run, graph_of(run, blockgraph.OPS, vocab=64), device, compiled=False, native=False, before=before
    )


def test_what_a_run_began_with_outlives_a_change_of_machine(tiny):
    run = runfile.load(tiny, ["data.seq=1024", "train.precision=bf16"])
    here, there = graph_for(run, "cpu"), graph_for(run, "cuda")
    assert [graph.decisions[0].lowering for graph in (here, there)] == ["blockwise", "sdpa"]
    moved = graph_for(run, "cuda", lowering.begun_with(lowering.recorded(here)))
    assert (moved.decisions[0].lowering, moved.decisions[0].reason) == ("blockwise", "as decided before")


def test_a_lowering_that_the_model_cannot_have_ends_the_run_at_its_line(tiny, tmp_path, capsys):
    assert train(tiny, tmp_path / "run", "set.block=soft_cap", "train.lowering=sdpa") == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert "blocks/soft_cap.yaml:18:7: error: attn.bmm1 to attn.bmm2 cannot be lowered to sdpa: torch's kernel" in error


def test_a_lowering_that_there_is_none_of_is_an_error_of_the_key(tiny, tmp_path, capsys):
    assert train(tiny, tmp_path / "run", "train.lowering=flash") == 1
    assert "train.lowering" in capsys.readouterr().err


def test_every_lowering_of_a_run_is_in_the_table():
    values = runfile.RunConfig.model_fields["train"].annotation.model_fields["lowering"].annotation.__args__
    assert set(values) == {"auto", "explicit", *FUSIONS}


def test_head_and_blocks_are_lowered_alike_where_the_head_is_open(tiny):
    run = runfile.load(tiny, ["train.lowering=blockwise", "train.loss=chunked"])
    world = World(Launch(), torch.device("cpu"))
    found = inputs.lowered_for(run, inputs.prepare(run, blockgraph.OPS), world)
    assert found.graph.decisions == found.objective.graph.decisions
    assert found.graph.decisions[0].lowering == "blockwise"


@pytest.mark.parametrize(("builds", "taken"), [(True, "blockwise"), (False, "explicit")])
def test_a_run_takes_the_kernel_in_c_plus_plus_only_where_it_was_built(tiny, monkeypatch, builds, taken):
    run = runfile.load(tiny, ["data.seq=128", "train.precision=bf16"])
    monkeypatch.setattr(native, "can_be_native", lambda: True)
    monkeypatch.setattr(native, "_block_library", lambda: "a library" if builds else None)
    prepared = inputs.prepare(run, blockgraph.OPS)
    chosen = inputs.lowered_for(run, prepared, World(Launch(), torch.device("cpu")))
    assert [decision.lowering for decision in chosen.graph.decisions] == [taken]


@pytest.mark.parametrize("other", ["train.lowering=explicit", "train.precision=fp32", "data.seq=127"])
def test_nothing_is_built_for_a_run_that_would_not_take_it(tiny, monkeypatch, other):
    def build():
        raise AssertionError("it was built")

    run = runfile.load(tiny, ["data.seq=128", "train.precision=bf16", other])
    monkeypatch.setattr(native, "_block_library", build)
    assert not lowering.has_native(run, "cpu", built=True)
    assert not lowering.has_native(run, "cuda", built=True)

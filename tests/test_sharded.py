"""A run gives the same on one, two and four processes, and goes on from the other's checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Job, apart, on_ranks, restored_exactly
from train_case import assert_same, series, state, train, trained_in, write_case

import blockgraph as bg
from blockgraph import apart as apart_rows
from runners.checkpoint import Checkpoints
from runners.series import load

pytestmark = pytest.mark.dist

STEPS = ("train.steps=20", "train.batch=8", "train.micro_batch=4", "checkpoint.every=20", "log.evaluate=20")
BLOCKS = ("baseline", "qk_norm_cap", "sigma_reparam")
UNEVEN = (*STEPS, "set.d_model=66", "set.n_heads=3", "set.vocab=307", "train.steps=12", "checkpoint.every=5")
SPECS = Path(__file__).parent / "specs"
ACTING = (*STEPS, f"model={SPECS / 'after_step.yaml'}", "set={d_model: 16, n_heads: 2}")
CASES = {f"{block}-fp32": (*STEPS, f"set.block={block}") for block in BLOCKS} | {"after_step-fp32": ACTING}
MIXED = {f"{block}-bf16": (*STEPS, f"set.block={block}", "train.precision=bf16") for block in BLOCKS}
MICRO = {f"micro-{count}": (*STEPS, f"train.micro_batch={count}", "optim.z_loss=1e-3") for count in (1, 2, 4)}
AGAIN = ("set.block=sigma_reparam", "train.checkpointing=block")
HYBRID = {f"{name}-2x2": (*overrides, "train.shard=2") for name, overrides in CASES.items()}
SHARED = {"shared": (*STEPS, f"model={SPECS / 'shared.yaml'}", "set.block=baseline")}
PARTS = {
    f"parts-{name}": (*overrides, "train.loss=chunked") for name, overrides in (CASES | MIXED).items() if "qk" in name
}
# An embedding and a head that outweigh a layer, whose rows do not divide among the processes.
RAGGED = {"ragged": (*STEPS, "set.vocab=307", "train.steps=8", "train.micro_batch=2")}
# Losses that nodes add, of sequences and of tokens alone, so that they do not follow from how a batch is split.
ADDED = (*STEPS, f"model={SPECS / 'losses.yaml'}", "set={}", "train.steps=10", "log.probes=[experts]")
LOSSES = {f"losses-{count}": (*ADDED, f"train.micro_batch={count}") for count in (1, 4)}
ROUTED = {"losses-bf16": (*ADDED, "train.precision=bf16", "train.micro_batch=4")}
# Experts that do not divide among the processes, with biases, and some whose loads are balanced.
TINY = (*STEPS, "train.steps=6", "log.probe=5", "checkpoint.every=6", "log.evaluate=6")
EXPERTS = {
    "mixtral": (*TINY, "model=mixtral", "set={size: tiny, n_experts: 5}", "train.micro_batch=2"),
    "gpt_oss": (*TINY, "model=gpt_oss", "set={size: tiny}", "train.checkpointing=block"),
    "deepseek_v3": (*TINY, "model=deepseek_v3", "set={size: tiny}"),
}
MUON = {"mixtral-muon": (*EXPERTS["mixtral"], "optim.name=muon")}
ALONE = RAGGED | PARTS | CASES | MIXED | MICRO | LOSSES | ROUTED | SHARED | EXPERTS | MUON
ALONE |= {"uneven": UNEVEN, "again": (*STEPS, *AGAIN)}
FOUR = CASES | HYBRID | RAGGED | {"uneven": UNEVEN, "mixtral": EXPERTS["mixtral"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    with trained_in(folder):
        yield write_case(folder)


@pytest.fixture(scope="module")
def one(tiny):
    """The runs of one process."""
    folder = tiny.parent / "one"
    for name, overrides in ALONE.items():
        assert train(tiny, folder / name, *overrides) == 0
    return folder


@contextmanager
def in_small_messages(rank):
    """In the block, large parameters are sent a few rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart_rows, "MESSAGE_BYTES", 4 * 2 * 16 * 10)
        yield


@pytest.fixture(scope="module")
def two(tiny, one):
    """The same runs on two processes, and some that were stopped after step 7, of which some went on."""
    folder = tiny.parent / "two"
    jobs = [Job(folder / name, overrides, count=name == "baseline-fp32") for name, overrides in ALONE.items()]
    jobs.append(Job(folder / "ragged-small", *RAGGED.values(), around=in_small_messages))
    for name, pieces in (("whole", False), ("pieces", True)):
        jobs.append(Job(folder / name, UNEVEN, stop=7, pieces=pieces))
    jobs += [Job(folder / "resumed-whole", UNEVEN, stop=7), Job(folder / "resumed-whole", UNEVEN)]
    for stop in (3, 7, 0):
        jobs.append(Job(folder / "resumed-pieces", UNEVEN, stop=stop, pieces=True))
    mixed = (*UNEVEN, "train.precision=bf16", "set.block=sigma_reparam")
    jobs += [Job(folder / "mixed", mixed), Job(folder / "resumed-mixed", mixed, stop=7)]
    jobs.append(Job(folder / "resumed-mixed", mixed))
    on_ranks(2, tiny, jobs)
    return folder


@pytest.fixture(scope="module")
def four(tiny, two):
    """Runs of four processes, also as two copies of two, and two that were begun on two processes."""
    folder = tiny.parent / "four"
    jobs = [Job(folder / name, overrides) for name, overrides in FOUR.items()]
    jobs.append(Job(folder / "ragged-2x2", (*RAGGED["ragged"], "train.shard=2"), around=in_small_messages))
    for name in ("whole", "pieces"):
        shutil.copytree(two / name, folder / name)
        jobs.append(Job(folder / name, UNEVEN, around=partial(restored_exactly, out=folder / name)))
    jobs.append(Job(folder / "hybrid-pieces", (*UNEVEN, "train.shard=2"), stop=7, pieces=True))
    jobs.append(Job(folder / "hybrid-pieces", UNEVEN))
    on_ranks(4, tiny, jobs)
    return folder


@pytest.mark.parametrize("name", [*CASES, *MICRO, "uneven", "shared", "ragged", *EXPERTS])
def test_two_processes_give_the_losses_of_one(one, two, name):
    assert apart(two / name, one / name) < 1e-5
    assert apart(two / name, one / name, "grad_norm") < 1e-4
    assert series(two / name)[-1]["val_loss"] == pytest.approx(series(one / name)[-1]["val_loss"], abs=1e-5)


@pytest.mark.parametrize("name", [*CASES, "uneven", "ragged", "mixtral"])
def test_four_processes_give_the_losses_of_one(one, four, name):
    assert apart(four / name, one / name) < 1e-5
    assert series(four / name)[-1]["val_loss"] == pytest.approx(series(one / name)[-1]["val_loss"], abs=1e-5)


RECORDED = ("micro-2", "uneven", "again", "shared", "losses-4", "parts-qk_norm_cap-fp32")


@pytest.mark.parametrize("name", [*CASES, *RECORDED, *EXPERTS])
def test_two_processes_record_what_one_records(one, two, name):
    same_probes(two / name, one / name)


@pytest.mark.parametrize("name", [*CASES, *HYBRID, "uneven"])
def test_four_processes_record_what_one_records(one, four, name):
    same_probes(four / name, one / name.removesuffix("-2x2"))


def test_biases_of_experts_follow_the_loads_of_all_processes(one, two):
    name = "layers.3.ff.route.bias"
    found, expected = (state(folder / "deepseek_v3")[name] for folder in (two, one))
    assert expected.unique().numel() > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_muon_on_two_processes_moves_the_experts_as_on_one(one, two):
    # It orthogonalises in bf16, which tells gradients apart that differ in their last bits.
    assert apart(two / "mixtral-muon", one / "mixtral-muon") < 1e-3


def test_large_parameters_may_be_sent_in_many_messages(one, two, four):
    assert apart(two / "ragged-small", two / "ragged") == 0.0
    assert apart(four / "ragged-2x2", one / "ragged") < 1e-5


def same_probes(out, other):
    """Equal at the first step; later ones follow from weights that differ in their last bits."""
    found, expected = load(out), load(other)
    assert found.columns == expected.columns
    assert found.steps.tolist() == expected.steps.tolist()
    np.testing.assert_allclose(found.values[0], expected.values[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", HYBRID)
def test_two_copies_of_two_shards_give_the_losses_of_one(one, four, name):
    assert apart(four / name, one / name.removesuffix("-2x2")) < 1e-5


@pytest.mark.parametrize("name", MIXED)
def test_bf16_on_two_processes_gives_the_losses_of_one(one, two, name):
    assert apart(two / name, one / name) < 2e-3


@pytest.mark.parametrize("name", PARTS)
def test_logits_made_in_parts_change_no_loss_on_one_process_or_two(one, two, name):
    for folder in (one, two):
        assert apart(folder / name, one / name.removeprefix("parts-")) < (2e-3 if "bf16" in name else 1e-5)


def test_trap_2_the_first_loss_does_not_depend_on_the_world(one, two, four):
    for name in CASES:
        first = [series(folder / name)[0]["loss"] for folder in (one, two, four)]
        assert first == pytest.approx([first[0]] * 3, abs=1e-6)


@pytest.mark.parametrize("ranks", ["one", "two", "four"])
def test_actions_after_a_step_hold_for_the_whole_weights_on_any_number_of_processes(request, ranks):
    found = state(request.getfixturevalue(ranks) / "after_step-fp32")
    rows = [found["embed.weight"], found["layers.1.fc1.weight"], found["layers.1.fc2.weight"].T]
    for unit in rows:
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(len(unit)))
    u, v, weight = (found[f"layers.1.proj.{name}"] for name in ("u", "v", "weight"))
    torch.testing.assert_close(torch.nn.functional.normalize(weight @ v, dim=0), u, rtol=1e-5, atol=1e-6)
    start = bg.compile(SPECS / "after_step.yaml", d_model=16, n_heads=2, vocab=300).layers[1].qkv.weight
    before, after = (x.chunk(3) for x in (start, found["layers.1.qkv.weight"]))
    assert after[0].norm() < before[0].norm() / 2  # QK-clip was at work, on q and k alone
    assert after[2].norm() > before[2].norm() / 2


def test_trap_8_accumulation_on_two_processes_divides_gradients_once(one, two):
    for name in MICRO:
        assert apart(two / name, one / "micro-4") < 1e-5
        assert apart(two / name, one / "micro-4", "z_loss") < 1e-5


def test_losses_of_nodes_do_not_depend_on_the_world_or_the_micro_batch(one, two):
    for folder in (one, two):
        for name in LOSSES:
            assert apart(folder / name, one / "losses-4") < 1e-5
            assert apart(folder / name, one / "losses-4", "own_loss") < 1e-6
            assert apart(folder / name, one / "losses-4", "grad_norm") < 1e-4
    # A sum in fp32 goes through layers that compute in bf16.
    first = [series(folder / "losses-bf16")[0]["own_loss"] for folder in (one, two)]
    assert first[0] == pytest.approx(first[1], rel=1e-4)


def test_trap_4_recomputing_activations_changes_no_step_of_sigma_reparam(one, two):
    for folder in (one, two):
        assert_same(folder / "again", folder / "sigma_reparam-fp32")


def test_trap_11_every_parameter_is_sharded(two):
    made = Checkpoints(two / "pieces" / "checkpoints", 2).newest(pytest.fail)
    files = sorted(made.path.glob("model*"))
    assert [file.name for file in files] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    with (made.path / "manifest.json").open() as file:
        assert set(json.load(file)) == {file.name for file in made.path.iterdir()} - {"manifest.json"}
    stored = made.tensors("model")
    assert all(len(holders) == 2 for name, holders in stored._holders.items() if name.endswith("weight"))


def test_trap_1_no_two_shards_are_alike(two):
    made = Checkpoints(two / "pieces" / "checkpoints", 2).newest(pytest.fail)
    rows = made.tensors("model")["layers.0.attn.qkv.weight"]
    assert len(rows.unique(dim=0)) == len(rows)


def test_trap_5_the_power_iteration_keeps_fp32_under_bf16(two):
    kept = {name: value for name, value in state(two / "mixed").items() if name.endswith((".u", ".v"))}
    assert len(kept) == 2 * 4 * 2
    assert {value.dtype for value in kept.values()} == {torch.float32}


def test_trap_12_a_step_sends_one_packed_reduction(two):
    # They meet at the newest checkpoint, at the first signs of life, on whether to compile, and when all are done.
    steps, validations, start, end = 20, 1, 3, 1
    probed = 1 + steps // 4
    # The other message of a step is the wish to stop; a probed one sends sums and maxima.
    assert (
        json.loads((two / "baseline-fp32" / "calls.json").read_text())
        == 2 * (steps + probed) + validations + start + end
    )


@pytest.mark.parametrize(
    ("name", "straight"), [("resumed-whole", "uneven"), ("resumed-pieces", "uneven"), ("resumed-mixed", "mixed")]
)
def test_resuming_on_as_many_processes_changes_no_bit(two, name, straight):
    assert_same(two / name, two / straight)


def test_a_checkpoint_in_pieces_holds_what_a_whole_one_holds(two):
    torch.testing.assert_close(state(two / "pieces"), state(two / "whole"), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["whole", "pieces"])
def test_a_run_begun_on_two_goes_on_on_one_and_on_four(tiny, tmp_path, one, two, four, name):
    shutil.copytree(two / name, tmp_path / name)
    with restored_exactly(0, tmp_path / name):
        assert train(tiny, tmp_path / name, *UNEVEN) == 0
    assert len([*tmp_path.glob(f"{name}.checked-*"), *four.glob(f"{name}.checked-*")]) == 1 + 4
    assert apart(tmp_path / name, one / "uneven") < 1e-5
    assert apart(four / name, one / "uneven") < 1e-5


def test_a_run_of_two_copies_in_pieces_goes_on_as_one_copy(one, four):
    assert apart(four / "hybrid-pieces", one / "uneven") < 1e-5


def test_a_missing_piece_is_noticed(tmp_path, two):
    shutil.copytree(two / "pieces", tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    (newest / "optim-00002-of-00002.safetensors").unlink()
    told = []
    found = Checkpoints(tmp_path / "run" / "checkpoints", 2).newest(told.append)
    assert (found.step, "optim-00002-of-00002" in told[0]) == (5, True)


def torchrun(tiny, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole = [*command, "runners.train", str(tiny), *words]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_torchrun_gives_what_the_command_gives(tiny, tmp_path, two):
    done = torchrun(tiny, "--out", str(tmp_path / "run"), *UNEVEN)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("finished after step 12") == 1
    assert "state: one copy, sharded over 2 processes\n" in done.stdout
    assert_same(tmp_path / "run", two / "uneven")


def test_a_batch_that_does_not_divide_is_refused(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert train(tiny, tmp_path / "run", "train.batch=8", "train.shard=2") == 1
    assert capfd.readouterr().err.splitlines() == [
        "<command line>: error: train.batch: 8 sequences do not divide among 3 processes",
        "<command line>: error: train.shard: 3 processes do not divide into groups of 2",
    ]
    monkeypatch.setenv("RANK", "1")
    assert train(tiny, tmp_path / "run", "train.batch=8", "train.shard=2") == 1
    assert capfd.readouterr().err == ""

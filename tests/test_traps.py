"""What silently spoils a study of stability, and that a process by itself does not fall for it."""

from pathlib import Path

import pytest
import torch

import blockgraph
from blockgraph import EVERYTHING
from blockgraph.fused import FUSIONS
from blockgraph.fusion import Target
from blockgraph.passes import fuse
from runners import sharding
from runners.config import Train
from runners.launch import Launch
from runners.world import World

ROOT = Path(blockgraph.__file__).parent.parent
SPECS = Path(__file__).parent / "specs"
SIZES = {"n_layers": 2, "d_model": 16, "n_heads": 2, "vocab": 31}
BLOCKS = sorted(path.stem for path in (ROOT / "specs" / "blocks").glob("*.yaml"))


def made(block, **options):
    return blockgraph.compile("gpt", block=block, **options, **SIZES)


def placed(block, make=made, seed=0, **options):
    with torch.device("meta"):
        model = make(block, **options)
    sharding.place(model, Train(seed=seed), World(Launch(), torch.device("cpu")), compiled=False)
    return model


def tensors(model):
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("block", BLOCKS)
def test_trap_2_memory_that_comes_last_holds_the_same_start(block):
    torch.testing.assert_close(tensors(placed(block, seed=5)), tensors(made(block, seed=5)), rtol=0, atol=0)


def test_trap_3_no_constant_is_wiped_on_the_way_from_shapes_to_memory():
    depth = SPECS / "depth.yaml"
    found = tensors(placed(depth, blockgraph.compile))
    assert any("constants" in name for name in found)
    torch.testing.assert_close(found, tensors(blockgraph.compile(depth)), rtol=0, atol=0)


@pytest.mark.parametrize("block", BLOCKS)
def test_trap_6_no_parameter_is_without_an_axis(block):
    assert all(weight.shape for weight in placed(block).weights.values())


def test_trap_7_a_recomputed_block_runs_its_hooks_once():
    model, calls = placed("sigma_reparam", recompute=EVERYTHING), []
    for block in model.blocks():
        block.register_forward_hook(lambda *_: calls.append(1))
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert len(calls) == SIZES["n_layers"]


@pytest.mark.parametrize("block", BLOCKS)
def test_recomputing_changes_no_name_and_no_gradient(block):
    tokens = torch.arange(12).reshape(2, 6)
    found = []
    for names in ((), EVERYTHING, ("attn",), ("attn.softmax", "attn.bmm2", "ff.act", "add_ff")):
        model = placed(block, recompute=names)
        model(tokens).square().mean().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_trap_10_no_dtype_is_left_to_autocast():
    sources = [path.read_text() for folder in ("blockgraph", "runners") for path in (ROOT / folder).rglob("*.py")]
    assert not any("autocast" in source for source in sources)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_trap_9_no_attention_on_a_cpu_waits_for_a_backward_pass_that_flex_lacks_there(block, compiled):
    target = Target(4096, "bf16", "cpu", compiled)
    (decision,) = fuse(blockgraph.load("gpt", block=block, **SIZES), FUSIONS, "auto", target).decisions
    assert (decision.lowering != "flex", "flex" in decision.others) == (True, True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at that of every tensor
def test_trap_13_hooks_of_compiled_blocks_run_in_every_step():
    model, calls = made("qk_norm"), []
    for number, block in enumerate(model.blocks()):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
        block.compile(backend="aot_eager")
    for _ in range(3):
        model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert calls == 3 * [*range(SIZES["n_layers"])]

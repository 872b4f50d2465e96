"""Choosing nodes that the backward pass computes again: what it leaves as it is, what it saves, what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import blockgraph as bg
from blockgraph.lower import lower
from blockgraph.memory import Setting, rehearse
from runners import runfile
from runners.flops import step_flops
from runners.loss import loss_for
from runners.spec import graph_of

SPECS = Path(__file__).parent / "specs"
SIZES = {"n_layers": 3, "d_model": 32, "n_heads": 4, "vocab": 61}
CHOICES = [bg.EVERYTHING, ("attn",), ("attn.bmm1", "attn.mask", "ff", "add_ff")]
RUN = "model: gpt\nset: {vocab: 61}\ntrain:\n  batch: 4\n  checkpointing: "


@pytest.mark.parametrize("names", CHOICES)
def test_the_text_with_parts_is_formatted(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "module.py"
    path.write_text(lower(bg.load("gpt", block="qk_norm_cap"), recompute=names))
    words = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length", "120", str(path)]
    subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize("spec", ["streams", "value_residual", "cross", "depth"])
def test_blocks_of_several_values_and_of_run_time_sizes_keep_their_bits(spec: str) -> None:
    found = []
    for names in ((), bg.EVERYTHING):
        module = bg.compile(SPECS / f"{spec}.yaml", recompute=names)
        inputs = [torch.arange(14).reshape(2, 7) % 5 for _ in module.graph.inputs]
        if spec == "cross":
            inputs = [torch.ones(2, length, 32).cumsum(1) for length in (7, 5)]
        outputs = module(*inputs)
        sum(x.square().sum() for x in (outputs if isinstance(outputs, tuple) else [outputs])).backward()
        found.append({name: parameter.grad for name, parameter in module.named_parameters()})
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_the_more_is_computed_again_the_less_is_kept() -> None:
    graph = bg.load("gpt", block="qk_norm", **SIZES)

    def peak(*names: str) -> int:
        setting = Setting(64, torch.bfloat16, None, names)
        return max(sum(moment.values()) for moment in rehearse(graph, loss_for(0.0, compiled=False), setting, 4))

    # Two parts, one after the other, need room for the values of one at a time.
    assert peak("attn", "ff") < peak("") < peak("attn") < peak()


def test_a_fused_core_is_computed_again_where_all_of_it_is_named() -> None:
    core = ("attn.bmm1", "attn.mask", "attn.softmax", "attn.bmm2")
    for names, parts in ((core, 1), (core[1:], 0), (("attn",), 1)):
        source = bg.compile("gpt", lowering="sdpa", recompute=names, **SIZES).source
        assert source.count("= recomputed(part") == parts, names


def test_the_arithmetic_of_a_step_counts_what_is_computed_again(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN + "none\n")
    run, graph = runfile.load(tmp_path / "run.yaml"), bg.load("gpt", **SIZES)
    tokens, width = run.config.train.batch * run.config.data.seq, 32
    extra = step_flops(graph, run.config, ("ff.fc1", "attn.softmax")) - step_flops(graph, run.config, ())
    assert extra == SIZES["n_layers"] * 2 * tokens * width * 4 * width


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at that of every tensor
@pytest.mark.parametrize("names", CHOICES)
def test_torch_compiles_a_block_with_parts_once_for_all_layers(names: tuple[str, ...]) -> None:
    torch._dynamo.reset()
    counters.clear()
    eager, module = (bg.compile("gpt", block="qk_norm_cap", recompute=names, **SIZES) for _ in range(2))
    for block in module.blocks():
        block.compile(fullgraph=True, backend="aot_eager")
    tokens = torch.arange(14).reshape(2, 7)
    for each in (eager, module):
        each(tokens).square().sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    for (name, one), other in zip(eager.named_parameters(), module.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-4 * one.grad.norm(), name
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[attn.qk, ff]", "5:18: error: no block has a node or group 'attn.qk'; did you mean 'attn.qkv'?"),
        ("[embed]", "5:18: error: no block has a node or group 'embed'; a node or a group of a block is expected"),
        ("blok", "5:18: error: train.checkpointing: 'blok' is not known; did you mean 'block'?"),
        ("7", "5:18: error: train.checkpointing must be none or block or a list, found '7'"),
    ],
)
def test_names_that_stand_for_nothing_are_refused_where_they_are_written(tmp_path: Path, value: str, told: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{RUN}{value}\n")
    with pytest.raises(bg.SpecError) as refused:
        graph_of(runfile.load(path), bg.OPS)
    assert str(refused.value).splitlines()[0] == f"{path}:{told}"

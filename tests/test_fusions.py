"""Which chains of nodes are recognised as an attention core, how each is lowered, and what is said about it."""

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import blockgraph as bg
from blockgraph.canonical import canonical
from blockgraph.check import check
from blockgraph.cli import main
from blockgraph.cost import cost
from blockgraph.errors import Problems, SpecError
from blockgraph.fused import FUSIONS
from blockgraph.fusion import Target
from blockgraph.graph import Graph
from blockgraph.library import shipped
from blockgraph.load import load
from blockgraph.lower import lower
from blockgraph.op import Site
from blockgraph.ops import OPS
from blockgraph.ops.softmax import Softmax
from blockgraph.passes import fuse

SPECS = Path(__file__).parent / "specs"
BLOCKS = [name for name, path in shipped().items() if path.parent.name == "blocks"]
LONG = Target(seq=4096, precision="bf16", device="cpu")
CORE = """\
block: core
dims: {n_heads: 2, d_head: 16}
inputs: {q: [batch, n_heads, seq, d_head], k: [batch, n_heads, seq, d_head], v: [batch, n_heads, seq, d_head]}
nodes:
  bmm1:    {op: matmul, in: [q, k], transpose: b, scale: 1 / sqrt(d_head)}
  mask:    {op: causal_mask}
  softmax: {op: softmax}
  bmm2:    {op: matmul, in: [softmax, v]}
outputs: {x: bmm2}
"""
# A change of the core above, as a line and what takes its place, and why it is lowered node by node.
REFUSED = {
    "read_twice": ("outputs", "  add: {op: add, in: [bmm2, again]}\n  again: {op: matmul, in: [softmax, k]}\noutputs",
                   "x: bmm2", "x: add", "softmax is also read by again"),
    "an_output": ("x: bmm2", "x: bmm2, scores: softmax", "causal_mask", "causal_mask", "softmax is an output"),
    "two_caps": ("  mask:", "  a: {op: soft_cap}\n  b: {op: soft_cap, cap: 9}\n  mask:", "x", "x", "b is a second cap"),
    "factor_after": ("[softmax, v]", "[softmax, v], scale: 2", "x", "x", "bmm2 is not the plain product"),
}  # fmt: skip


def core(tmp_path: Path, *changes: str) -> Graph:
    """The graph of the core with every first text of a pair replaced by the second."""
    text = CORE
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "core.yaml").write_text(f"{text}causal: false\n" if "scores" in text else text)
    return bg.load(tmp_path / "core.yaml")


def choice(graph: Graph, lowering: str = "auto", target: Target = LONG) -> str:
    (decision,) = fuse(graph, FUSIONS, lowering, target).decisions
    return decision.lowering


@pytest.mark.parametrize("block", BLOCKS)
def test_the_core_of_every_shipped_block_is_recognised(block: str) -> None:
    graph = bg.load("gpt", block=block)
    fused = fuse(graph, FUSIONS, "auto", LONG)
    (decision,) = fused.decisions
    assert (decision.core, decision.lowering) == (f"{block}.attn.bmm2", "blockwise")
    assert (decision.steps[0], decision.steps[-1]) == ("bmm1", "bmm2")
    text = lower(fused)
    assert text.count("blockwise(") == 2  # the function and one call
    assert "causal_mask" not in text


@pytest.mark.parametrize("spec", [*BLOCKS, SPECS / "all_methods.yaml"])
def test_a_fused_graph_is_the_same_to_all_who_ask_what_it_computes(spec: str | Path) -> None:
    graph = bg.load(spec)
    fused = fuse(graph, FUSIONS, "blockwise")
    assert canonical(fused) == canonical(graph)
    assert cost(fused).flops(3, 40) == cost(graph).flops(3, 40)
    assert cost(fused).parameters == cost(graph).parameters


@pytest.mark.parametrize("spec", [*BLOCKS, SPECS / "all_methods.yaml"])
def test_a_fused_graph_passes_the_checks_again(spec: str | Path) -> None:
    fused, problems = fuse(bg.load(spec), FUSIONS, "blockwise"), Problems()
    again = check(fused, problems)
    assert problems.found == []
    assert [node.types for node in again.nodes.values()] == [node.types for node in fused.nodes.values()]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_chain_that_others_look_into_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    *changes, reason = REFUSED[kind]
    graph = core(tmp_path, *changes)
    fused = fuse(graph, FUSIONS, "auto", LONG)
    (decision,) = {decision.steps: decision for decision in fused.decisions if decision.steps[-1] == "bmm2"}.values()
    assert fused.nodes == graph.nodes
    assert decision.lowering == "explicit"
    assert {why[: len(reason)] for why in decision.others.values()} == {reason}


@pytest.mark.parametrize(
    ("block", "lowering"), [("qk_norm_cap", "blockwise"), ("soft_clip", "blockwise"), ("qk_norm", "sdpa")]
)
def test_what_a_fused_core_does_not_keep_is_recorded_apart_and_changes_no_bit(block: str, lowering: str) -> None:
    def taken(lowering: str, *probes: str) -> tuple[Any, list[torch.Tensor]]:
        module = bg.compile(block, d_model=64, n_heads=4, lowering=lowering, probes=probes)
        if probes:
            module.records = torch.full((len(module.probes.of(module.graph)), 4), torch.nan)
        x = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = module(x)
        y.square().mean().backward()
        return module, [y, x.grad, *(weight.grad for weight in module.parameters())]

    (fused, values), (_, plain), (explicit, _) = taken(lowering, "**"), taken(lowering), taken("explicit", "**")
    assert all(map(torch.equal, values, plain))
    for records in (fused.records, explicit.records):
        records[:, 0] /= records[:, 3]  # a sum as a mean
    torch.testing.assert_close(fused.records, explicit.records, rtol=1e-5, atol=1e-6)
    assert fused.records.abs().amax(1).min() > 0


def test_scores_that_are_no_attention_are_left_alone() -> None:
    for name in ("relu_attention", "qk_clip"):
        graph = bg.load(SPECS / f"{name}.yaml")
        assert fuse(graph, FUSIONS, "blockwise") == graph


def test_an_own_op_that_derives_from_one_of_a_core_is_not_taken_for_it(tmp_path: Path) -> None:
    class Halved(Softmax):
        """Half of a softmax."""

        name: ClassVar = "halved"

        def lower(self, site: Site, x: str) -> str:
            return f"softmax({x}) / 2"

    class Renamed(Softmax):
        """A softmax under another name."""

        name: ClassVar = "renamed"

    ops = {**OPS, "halved": Halved, "renamed": Renamed}
    for name, lowering in (("halved", "explicit"), ("renamed", "blockwise")):
        (tmp_path / "own.yaml").write_text(CORE.replace("op: softmax", f"op: {name}"))
        (decision,) = fuse(load(tmp_path / "own.yaml", ops=ops), FUSIONS, target=LONG).decisions
        assert decision.lowering == lowering, decision.others


@pytest.mark.parametrize(
    ("target", "plain", "capped"),
    [
        (Target(), "explicit", "explicit"),
        (Target(256, "bf16", "cpu"), "explicit", "explicit"),
        (Target(256, "bf16", "cpu", native=True), "blockwise", "blockwise"),
        (Target(256, "fp32", "cpu", native=True), "explicit", "explicit"),
        (Target(64, "bf16", "cpu", native=True), "explicit", "explicit"),
        (Target(2048, "bf16", "cpu"), "blockwise", "blockwise"),
        (Target(2048, "fp32", "cpu"), "sdpa", "blockwise"),
        (Target(2048, "bf16", "cuda"), "sdpa", "explicit"),
        (Target(2048, "bf16", "cuda", compiled=True), "sdpa", "flex"),
    ],
)
def test_auto_goes_by_length_precision_and_device(target: Target, plain: str, capped: str, tmp_path: Path) -> None:
    assert choice(core(tmp_path), "auto", target) == plain
    assert choice(core(tmp_path, "  mask:", "  cap: {op: soft_cap}\n  mask:"), "auto", target) == capped


def test_what_is_decided_stays_decided(tmp_path: Path) -> None:
    for name in ("explicit", "sdpa"):
        fused = fuse(core(tmp_path), FUSIONS, name)
        assert fuse(fused, FUSIONS, "blockwise", LONG) == fused
    (decision,) = fuse(core(tmp_path), FUSIONS, {"core.bmm2": "sdpa"}, LONG).decisions
    assert str(decision) == "core.bmm2 (bmm1, mask, softmax, bmm2): sdpa (as decided before)"


def test_factors_behind_a_cap_belong_to_it_and_to_the_scale(tmp_path: Path) -> None:
    graph = core(tmp_path, "  mask:", "  cap: {op: soft_cap, cap: 8}\n  temp: {op: soft_temp, beta: 0.5}\n  mask:")
    assert "blockwise(q, k, v, scale=0.125, cap=4.0)" in lower(fuse(graph, FUSIONS, "blockwise"))


def test_each_layer_of_a_stack_is_lowered_by_what_it_holds(tmp_path: Path) -> None:
    model = bg.load("gpt", n_layers=4, d_model=64, n_heads=4, vocab=61, block="soft_cap")
    text = re.sub(r"^slots:.*\n", "", Path(shipped()["gpt"]).read_text(), flags=re.MULTILINE)
    (tmp_path / "mixed.yaml").write_text(text.replace("of: block", "of: [baseline, soft_cap]"))
    mixed = bg.load(tmp_path / "mixed.yaml", n_layers=4, d_model=64, n_heads=4, vocab=61)
    found = {d.core: d.lowering for d in fuse(mixed, FUSIONS, "auto", Target(2048, "fp32", "cpu")).decisions}
    assert found == {"baseline.attn.bmm2": "sdpa", "soft_cap.attn.bmm2": "blockwise"}
    assert choice(model) == "blockwise"


CAP, OPEN = ("  mask:", "  cap: {op: soft_cap}\n  mask:"), ("outputs:", "causal: false\noutputs:")
TURNED = ("transpose: b, scale", "scale", "k: [batch, n_heads, seq, d_head]", "k: [batch, n_heads, d_head, seq]")


@pytest.mark.parametrize(
    ("lowering", "changes", "message"),
    [
        ("sdpa", CAP, "sdpa: torch's kernel has no cap; what can be: explicit, blockwise"),
        ("sdpa", ("mask}", "mask, window: 3}"), "sdpa: torch's kernel has no window; what can be: explicit, blockwise"),
        ("flex", (), "flex: it trains on CUDA alone; what can be: explicit, sdpa, blockwise"),
        (
            "blockwise",
            ("1 / sqrt(d_head)", "-1"),
            "blockwise: the factor of bmm1 is not known to be positive; what can",
        ),
        ("blockwise", (*TURNED, *OPEN), "blockwise: bmm1 does not transpose its b; what can be: explicit"),
    ],
)
def test_a_lowering_that_cannot_be_had_is_refused_at_the_node(
    lowering: str, changes: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    graph = core(tmp_path, *changes)
    with pytest.raises(SpecError) as caught:
        fuse(graph, FUSIONS, lowering, Target(device="cpu"))
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{tmp_path}/core.yaml:5:3: error: bmm1 to bmm2 cannot be lowered to {message}")


def test_a_name_that_is_no_lowering_is_told_with_the_near_miss() -> None:
    with pytest.raises(SpecError) as caught:
        bg.compile("baseline", lowering="blokwise")
    assert str(caught.value) == "lowering: error: no lowering is called 'blokwise'; did you mean 'blockwise'?"


def test_explain_prints_every_core_with_the_choice_and_why_not_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "soft_cap", "--explain", "--seq", "4096", "--precision", "bf16", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == (
        "soft_cap.attn.bmm2: bmm1, cap, mask, softmax, bmm2\n"
        "  blockwise  yes  auto: the fastest here from 1024 tokens on\n"
        "  explicit   no   blockwise is better here\n"
        "  sdpa       no   torch's kernel has no cap\n"
        "  flex       no   it trains on CUDA alone\n"
    )


def test_a_module_says_how_it_was_lowered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "module.py"
    assert main(["compile", "qk_norm", "--lowering", "sdpa", "--explain", "-o", str(target)]) == 0
    said = "Lowered qk_norm.attn.bmm2 (bmm1, mask, softmax, bmm2): sdpa (as asked for)."
    assert said in target.read_text()
    assert f"wrote {target}" in capsys.readouterr().out

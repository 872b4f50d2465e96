"""Caches derived from graphs: new tokens alone give what the whole sequence gives, or it is said why they cannot."""

import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import blockgraph as bg
from blockgraph.caching import refusals
from blockgraph.cli import main
from blockgraph.commands.common import own_ops
from blockgraph.graph import Graph
from blockgraph.kernels.cache import Cache
from blockgraph.library import shipped
from blockgraph.load import load
from blockgraph.lower import lower
from blockgraph.ops import OPS
from runners.writing import Choice, Writer, written

SPECS = Path(__file__).parent / "specs"
SEQ = 19
TOKENS = 12
CLOSE = 1e-5  # of the largest entry, in fp32
SIZES: dict[str, Any] = {"n_layers": 3, "d_model": 32, "n_heads": 4, "vocab": 61}


def _cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every spec that ships, and those of the tests: blocks in gpt, models at their tiny size."""
    found: dict[str, tuple[str, dict[str, Any]]] = {path.stem: (str(path), {}) for path in SPECS.glob("*.yaml")}
    for name, path in shipped().items():
        if load(name).kind == "block":
            found[name] = "gpt", SIZES | {"block": name}
        else:
            found[f"model {name}"] = name, {"size": "tiny"} if "sizes:" in path.read_text() else SIZES
    return found


CASES = _cases()
LENGTH = "is another number for each length, and so are all rows behind it"
UNSAID = "nothing says how rows of new tokens follow from earlier ones; where they do, its class has `incremental`"
# Every spec without a cache, with its reasons: nobody's cache disappears without a line here.
REFUSED = {
    "model sigmoid_attention": [f"attn.sigmoid (sigmoid): shift = -log(seq) {LENGTH}"],
    "all_methods": [f"attn.clip (soft_clip): gamma = -1 / seq {LENGTH}"],
    "clip_by_length": [f"clip (soft_clip): gamma = -12 / seq {LENGTH}"],
    "depth": [
        f"long (scale): by = log(seq + 1) / 4 {LENGTH}",
        f"most (scale): by = min(seq, 2 + layer) {LENGTH}",
        f"both (scale): by = (-1 - layer) ** 2 / sqrt(seq + layer) {LENGTH}",
    ],
    "relu_attention": [f"mean (scale): by = 1 / seq {LENGTH}"],
    "model vit": ["no input has an axis for tokens, so there are no new ones"],
    "encoder": ["attn.softmax (softmax): its value may depend on later tokens"],
    "own_ops": [f"alibi (alibi): {UNSAID}", f"temp (temperature): {UNSAID}"],
}

every_cached = pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED])


@cache
def graph_of(case: str) -> Graph:
    spec, dims = CASES[case]
    return load(spec, ops=own_ops([str(SPECS / "my_ops.py")]), **dims)


@cache
def made(case: str) -> Any:
    """A model whose weights are large enough for every node to be felt."""
    model = bg.compile(graph_of(case), cached=True).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=draw)
            large = 1.5 * noise / value.shape[-1] ** 0.5
            value.copy_(value * (1.0 + 0.5 * noise) + 0.1 * noise if value.dim() == 1 else large)
    for _ in range(8):
        model.after_step()  # vectors of power iterations come near to the singular ones
    return model


def inputs_of(graph: Graph, seed: int = 0) -> list[Tensor]:
    """Values for the inputs; documents go up, and other ids are drawn."""
    draw, found = torch.Generator().manual_seed(seed), []
    for name, kind in graph.inputs.items():
        shape = [size.at(batch=2, seq=SEQ, src=7) for size in kind.sizes]
        ids = torch.randint(61, shape, generator=draw)
        ids = (ids < 20).cumsum(1) if name == "documents" else ids
        found.append(ids if kind.kind == "int" else torch.randn(shape, generator=draw))
    return found


def outputs(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def in_parts(model: Any, inputs: list[Tensor], cuts: list[int], kept: Cache) -> list[Tensor]:
    """What `extend` gives for the parts between the cuts, put together along the tokens."""
    parts = []
    for first, end in pairwise([0, *cuts, SEQ]):
        given = [x[:, first:end] if x.shape[1] == SEQ else x for x in inputs]
        parts.append(outputs(model.extend(*given, kept)))
        kept.advance(end - first)
    kinds = [model.graph.type_of(ref) for ref in model.graph.outputs.values()]
    axes = [[str(size) for size in kind.sizes].index("seq") for kind in kinds]
    return [torch.cat(rows, axis) for rows, axis in zip(zip(*parts, strict=True), axes, strict=True)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max() / other.abs().max()) < CLOSE


def test_specs_without_a_cache_are_these_and_say_why() -> None:
    found = {case: [problem.message for problem in refusals(graph_of(case))] for case in CASES}
    assert {case: told for case, told in found.items() if told} == REFUSED


@every_cached
def test_new_tokens_alone_give_what_all_of_them_give(case: str) -> None:
    model = made(case)
    inputs = inputs_of(model.graph)
    with torch.no_grad():
        expected = outputs(model(*inputs))
        assert_equal(in_parts(model, inputs, [], Cache(SEQ)), expected)
        assert_equal(in_parts(model, inputs, [8, *range(9, SEQ)], Cache(SEQ + 3)), expected)


def gives_logits(case: str) -> bool:
    graph = graph_of(case)
    return graph.kind == "model" and len(graph.outputs) == 1 and graph.inputs.keys() <= {"tokens", "documents"}


@pytest.mark.parametrize("case", [case for case in CASES if case not in REFUSED and gives_logits(case)])
def test_the_likeliest_tokens_are_those_of_the_model_without_a_cache(case: str) -> None:
    model = made(case)
    prompt = torch.randint(61, (2, 5), generator=torch.Generator().manual_seed(3))
    for temperature in (0.0, 1.0):
        texts = []
        for cached in (True, False):
            writer = Writer(model, 5 + TOKENS, pieces=61, end=-1, cached=cached)
            texts.append(list(written(writer, prompt, TOKENS, Choice(temperature), seed=0)))
        assert texts[0] == texts[1]
    assert len({token for row in texts[0] for token in row}) > 1


@pytest.mark.parametrize("case", ["llama3", "gemma2", "mix_ln", "value_residual", "ngpt"])
def test_the_last_row_alone_is_the_last_of_all(case: str) -> None:
    model = made(f"model {case}")
    inputs = inputs_of(model.graph)
    kept = Cache(SEQ)
    kept.last_only = True
    with torch.no_grad():
        found = model.extend(*inputs, kept)
        assert found.shape[1] == 1
        assert_equal([found], [model(*inputs)[:, -1:]])


def test_an_encoder_runs_once_for_a_text() -> None:
    model, count = made("model t5"), 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    hooks = [layer.register_forward_hook(counted) for layer in model.encoder]
    inputs = inputs_of(model.graph)
    with torch.no_grad():
        in_parts(model, inputs, [4, 5, 6], Cache(SEQ))
    for hook in hooks:
        hook.remove()
    assert count == len(model.encoder)
    assert not hasattr(model.encoder[0], "extend")


EXTEND = """\
    def extend(self, x: Tensor, past: Cache) -> Tensor:
        \"\"\"`forward` for the tokens behind those of `past`; their rows alone are computed.\"\"\"
        # attn: Grouped-query attention
        attn_ln = rms_norm(x, weight=self.attn.ln.weight, eps=1e-05)
        attn_q = linear(attn_ln, self.attn.q.weight)
        attn_k = linear(attn_ln, self.attn.k.weight)
        attn_v = linear(attn_ln, self.attn.v.weight)
        attn_q_heads = split_heads(attn_q, 4)
        attn_k_heads = split_heads(attn_k, 2)
        attn_v_heads = split_heads(attn_v, 2)
        attn_v_heads_all = past.keep(self, "attn.v_heads", attn_v_heads, axis=2)
        attn_rope_q = rope(
            attn_q_heads, 500000.0, factor=1.0, turns=(8192.0, 1.0, 4.0), start=past.length
        )
        attn_rope_k = rope(
            attn_k_heads, 500000.0, factor=1.0, turns=(8192.0, 1.0, 4.0), start=past.length
        )
        attn_rope_k_all = past.keep(self, "attn.rope_k", attn_rope_k, axis=2)
        attn_k_groups_all = attn_rope_k_all.repeat_interleave(2, dim=1)
        attn_v_groups_all = attn_v_heads_all.repeat_interleave(2, dim=1)
        attn_bmm1 = torch.matmul(attn_rope_q, attn_k_groups_all.mT) * 0.25
        attn_mask = causal_mask(attn_bmm1)
        attn_softmax = softmax(attn_mask)
        attn_bmm2 = torch.matmul(attn_softmax, attn_v_groups_all)
"""


def test_the_text_is_read_like_the_forward_pass_and_keeps_what_is_smallest() -> None:
    text = lower(load("llama3", size="tiny", rope_factor=1, rope_length=8192), cached=True)
    lines = [line.partition("  # llama3.yaml")[0] for line in text.splitlines()]
    assert EXTEND in "\n".join(lines) + "\n"


@pytest.mark.parametrize("spec", ["value_residual", "t5"])
def test_a_module_with_a_cache_is_written_formatted_and_stands_alone(tmp_path: Path, spec: str) -> None:
    assert main(["compile", spec, "--set", "size=tiny", "--cache", "-o", str(tmp_path / "module.py")]) == 0
    rules = ["--isolated", "--line-length", "120", "--target-version", "py311", "--no-cache"]
    for command in (["format", "--check"], ["check", "--select", "E,F,I,B,UP,RUF,SIM", "--ignore", "RUF002,RUF003"]):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *rules, str(tmp_path / "module.py")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
    source = "t, " if spec == "t5" else ""
    program = (
        "import torch, module; m = module.build(); t = torch.arange(12)[None]; c = module.Cache(12)\n"
        f"a = m.extend({source}t[:, :7], c); c.advance(7); b = m.extend({source}t[:, 7:], c)\n"
        f"torch.testing.assert_close(torch.cat((a, b), 1), m({source}t), rtol=0, atol=1e-5)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_what_a_cache_keeps_is_told_of_published_sizes(capsys: Any) -> None:
    assert main(["compile", "llama3", "--set", "size=8b", "--cache", "--explain"]) == 0
    told = capsys.readouterr().out
    assert "cache: 131,072 bytes a token in bf16" in told  # 2 x 32 layers x 8 heads x 128 features x 2 bytes
    assert "65,536  llama3_block.attn.rope_k [batch, n_kv_heads, seq, d_head] in 32 layers, read by attn.bmm1.b" in told
    assert main(["compile", "packed", "--set", "size=tiny", "--cache", "--explain"]) == 0
    assert "16  within.documents [batch, seq] in 2 layers, read by attn.mask.documents" in capsys.readouterr().out


def test_a_module_with_a_cache_that_is_not_proven_is_refused_at_the_node(capsys: Any) -> None:
    assert main(["compile", str(SPECS / "clip_by_length.yaml"), "--cache"]) == 1
    assert capsys.readouterr().err.partition(" error:")[0].endswith("clip_by_length.yaml:9:3:")
    with pytest.raises(bg.SpecError, match="another number for each length"):
        bg.compile("sigmoid_attention", size="tiny", cached=True)


@pytest.mark.parametrize("lowering", ["sdpa", "blockwise"])
def test_a_fused_forward_pass_has_the_cache_of_its_spec(lowering: str) -> None:
    model = bg.compile("gpt", lowering=lowering, cached=True, block="qk_norm", **SIZES).eval()
    inputs = inputs_of(model.graph)
    with torch.no_grad():
        assert_equal(in_parts(model, inputs, [4, 5], Cache(SEQ)), outputs(model(*inputs)))


def test_a_cache_says_that_it_is_full() -> None:
    model = made("model gpt2")
    with pytest.raises(ValueError, match="the cache has room for 3 tokens, and these are 4"):
        model.extend(torch.zeros(1, 4, dtype=torch.int64), Cache(3))


def test_a_user_s_op_is_believed_where_it_gives_the_text_itself() -> None:
    class Quiet(OPS["relu"]):
        def lower(self, site: Any, x: str) -> str:
            return f"{x} / {x}.shape[1]"

    class Loud(Quiet):
        incremental: ClassVar = True

    assert OPS["relu"].grows()
    assert OPS["layer_norm"].grows()
    assert not Quiet.grows()
    assert Loud.grows()


@settings(max_examples=60)
@given(st.sampled_from([case for case in CASES if case not in REFUSED]), st.sets(st.integers(1, SEQ - 1)))
def test_where_a_prompt_is_cut_changes_nothing(case: str, cuts: set[int]) -> None:
    model = made(case)
    inputs = inputs_of(model.graph, seed=len(cuts))
    with torch.no_grad():
        assert_equal(in_parts(model, inputs, sorted(cuts), Cache(SEQ)), outputs(model(*inputs)))

"""The lowerings of the attention core against formulas in plain torch, forward and backward, in fp32 and in bf16."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import blockgraph as bg
from blockgraph.kernels import blockwise as kernel
from blockgraph.kernels import native, rows
from blockgraph.kernels.blockwise import blockwise
from blockgraph.kernels.probes import ONE_HOT, QUERIES

HEADS, WIDTH = 3, 16
HEAD = f"""\
block: core
dims: {{n_heads: {HEADS}, d_head: {WIDTH}}}
inputs: {{q: [batch, n_heads, seq, d_head], k: [batch, n_heads, seq, d_head], v: [batch, n_heads, seq, d_head]}}
nodes:
  bmm1: {{op: matmul, in: [q, k], transpose: b, scale: 1 / sqrt(d_head)}}
"""
# What stands between the products, by name: before the mask, the mask's fields, behind the softmax.
MIDDLES = {
    "plain": ("", "", ""),
    "temperature": ("temp: {op: soft_temp, beta: 0.5}", "", ""),
    "cap": ("cap: {op: soft_cap, cap: 5}", "", ""),
    "clip": ("", "", "clip: {op: soft_clip, zeta: 1.03, gamma: -0.03}"),
    "window": ("", ", window: 7", ""),
    "all": ("cap: {op: soft_cap, cap: 5}\n  temp: {op: soft_temp, beta: 2}", ", window: 40", "clip: {op: soft_clip}"),
}
FP32, BF16 = 2e-6, 0.02  # bounds on the errors
SEQS = (1, 2, 33, 300)  # one token, less than a block, a block with a rest, two blocks

every_middle = pytest.mark.parametrize("middle", MIDDLES)
every_case = pytest.mark.parametrize(
    ("middle", "lowering"), [*((name, "blockwise") for name in MIDDLES), ("plain", "sdpa"), ("temperature", "sdpa")]
)


def compiled(middle: str, lowering: str, folder: Path) -> torch.nn.Module:
    before, window, behind = MIDDLES[middle]
    lines = [before, f"mask: {{op: causal_mask{window}}}", "softmax: {op: softmax}", behind]
    nodes = "".join(f"  {line}\n" for line in lines if line)
    last = "clip" if behind else "softmax"
    path = folder / "core.yaml"
    path.write_text(f"{HEAD}{nodes}  bmm2: {{op: matmul, in: [{last}, v]}}\noutputs: {{x: bmm2}}\n")
    module: torch.nn.Module = bg.compile(path, lowering=lowering)
    return module


def formula(middle: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The core in plain torch, in the order of sections 4.2 to 4.4 of the paper."""
    scores = q @ k.mT / math.sqrt(WIDTH)
    if middle == "temperature":
        scores = 0.5 * scores
    if middle in ("cap", "all"):
        scores = 5 * torch.tanh(scores / 5) * (2 if middle == "all" else 1)
    seq = q.shape[2]
    back = torch.arange(seq)[:, None] - torch.arange(seq)
    window = {"window": 7, "all": 40}.get(middle, seq)
    weights = torch.softmax(scores.masked_fill((back < 0) | (back >= window), -math.inf), -1)
    return ((1.06 * weights - 0.03).clip(0, 1) if middle in ("clip", "all") else weights) @ v


def given(seq: int, batch: int = 2) -> list[Tensor]:
    """Queries, keys and values whose scores reach far beyond the cap."""
    draw = torch.Generator().manual_seed(seq)
    return [size * torch.randn(batch, HEADS, seq, WIDTH, generator=draw) for size in (4.0, 2.0, 1.0)]


def results(core: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of the inputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = core(*inputs)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(x.grad for x in inputs if x.grad is not None)]


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Norms of the differences, as shares of what is expected; where that is near nothing, of the output."""
    sizes = [torch.maximum(x.norm(), expected[0].norm()) for x in expected]
    return [((a.double() - b).norm() / size).item() for a, b, size in zip(found, expected, sizes, strict=True)]


@every_case
@pytest.mark.parametrize("seq", SEQS)
def test_a_lowering_equals_its_formula(middle: str, lowering: str, seq: int, tmp_path: Path) -> None:
    inputs, core = given(seq), compiled(middle, lowering, tmp_path)
    grad = torch.randn(inputs[2].shape, generator=torch.Generator().manual_seed(1))
    expected = results(partial(formula, middle), [x.double() for x in inputs], grad.double())
    found = results(core, inputs, grad)
    assert max(errors(found, expected)) < FP32


@every_case
def test_in_bf16_no_lowering_is_further_from_fp64_than_the_chain(middle: str, lowering: str, tmp_path: Path) -> None:
    inputs = [x.bfloat16() for x in given(300)]
    grad = torch.randn(inputs[2].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = results(partial(formula, middle), [x.double() for x in inputs], grad.double())
    ours = errors(results(compiled(middle, lowering, tmp_path), inputs, grad), expected)
    chain = errors(results(compiled(middle, "explicit", tmp_path), inputs, grad), expected)
    assert all(a <= b for a, b in zip(ours, chain, strict=True)), (ours, chain)
    assert max(ours) < BF16


@every_middle
def test_no_later_token_reaches_an_earlier_one(middle: str, tmp_path: Path) -> None:
    q, k, v = (x.requires_grad_() for x in given(70, batch=1))
    out = compiled(middle, "blockwise", tmp_path)(q, k, v)
    for token in (0, 31, 32, 68):
        for gradient in torch.autograd.grad(out[:, :, token].sum(), (q, k, v), retain_graph=True):
            assert gradient[:, :, token + 1 :].abs().max() == 0


@every_middle
def test_a_window_and_blocks_leave_nothing_unset(middle: str, tmp_path: Path) -> None:
    core = compiled(middle, "blockwise", tmp_path)
    for value in results(core, [1e4 * x for x in given(300)], torch.ones(2, HEADS, 300, WIDTH)):
        assert value.isfinite().all()


@every_case
def test_what_is_kept_for_the_backward_pass_grows_with_the_length(middle: str, lowering: str, tmp_path: Path) -> None:
    core, kept = compiled(middle, lowering, tmp_path), []
    for seq in (96, 384):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.nbytes) or x, lambda x: x):
            core(*(x.requires_grad_() for x in given(seq)))
        kept.append(sum(sizes))
    assert kept[1] < 4.5 * kept[0]


@pytest.mark.parametrize("middle", ["cap", "all"])
def test_torch_takes_the_blocks_as_one_operator(middle: str, tmp_path: Path) -> None:
    core, inputs = compiled(middle, "blockwise", tmp_path), given(40)
    grad = torch.ones_like(inputs[2])
    whole = torch.compile(core, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()
    torch.testing.assert_close(results(whole, inputs, grad), results(core, inputs, grad), rtol=0, atol=0)
    again = results(lambda *x: checkpoint(core, *x, use_reentrant=False), inputs, grad)
    torch.testing.assert_close(again, results(core, inputs, grad), rtol=0, atol=0)
    torch.testing.assert_close(results(copy.deepcopy(core), inputs, grad), again, rtol=0, atol=0)
    with torch.device("meta"):
        assert core(*(x.to("meta") for x in inputs)).shape == inputs[2].shape


@pytest.mark.parametrize("clip", [None, (1.03, -0.03)])
def test_compiled_blocks_compute_what_plain_ones_do(
    clip: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, grad = given(300), torch.ones(2, HEADS, 300, WIDTH)
    core = partial(blockwise, scale=0.25, cap=5.0, clip=clip, window=200)
    expected = results(core, inputs, grad)
    made = []
    compiler = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", lambda *args, **options: made.append(args) or compiler(*args, **options))
    monkeypatch.setattr(kernel, "_COMPILED_FROM", 1)
    monkeypatch.setattr(kernel, "has_compiler", lambda: True)
    kernel._compiled_once.cache_clear()
    torch.testing.assert_close(results(core, inputs, grad), expected)
    assert len(made) == (2 if clip is None else 3)
    kernel._compiled_once.cache_clear()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
@every_middle
@pytest.mark.parametrize("seq", [2, 33, 300])
def test_native_blocks_are_no_further_from_fp64_than_those_in_python(
    middle: str, seq: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [x.bfloat16() for x in given(seq)]
    if not native.can_be_native():
        pytest.skip("no C++ compiler, or a processor without AVX-512")
    grad = torch.randn(inputs[2].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = results(partial(formula, middle), [x.double() for x in inputs], grad.double())
    core = compiled(middle, "blockwise", tmp_path)
    monkeypatch.setitem(core.forward.__globals__, "_NATIVE_FROM", seq + 1)
    python = errors(results(core, inputs, grad), expected)
    monkeypatch.setitem(core.forward.__globals__, "_NATIVE_FROM", 1)
    found = errors(results(core, inputs, grad), expected)
    assert seq < 300 or found != python, "the other blocks were not taken"
    assert all(a <= 1.05 * b + 1e-6 for a, b in zip(found, python, strict=True)), (found, python)


def test_native_blocks_hide_no_number_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.bfloat16() for x in given(40))
    if not native.can_be_native():
        pytest.skip("no C++ compiler, or a processor without AVX-512")
    monkeypatch.setattr(native, "_NATIVE_FROM", 1)
    q[0, 0, 7], k[0, 1, 9] = math.nan, math.inf
    out = blockwise(q, k, v)
    assert out[0, 0, 7].isnan().all()
    assert out[0, 1, 9:].isnan().all()
    assert out[1].isfinite().all()


@every_middle
@pytest.mark.parametrize("seq", SEQS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_product_is_known_from_the_blocks_with_the_same_output(
    middle: str, seq: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "has_compiler", lambda: False)  # of Python's blocks; bf16 takes those in C++
    monkeypatch.setattr(native, "_NATIVE_FROM", 1)
    clip = (1.03, -0.03) if "clip" in MIDDLES[middle][2] else None
    how = {"scale": 0.25, "cap": 5.0 if "cap" in MIDDLES[middle][0] else None, "clip": clip}
    for sign in (1, -1):  # all products below zero, too
        q, k, v = (x.to(dtype) for x in given(seq))
        q, k = (q, k) if sign > 0 else (q.abs(), -k.abs())
        record, past = torch.zeros(4), torch.ones(seq, seq).tril().bool()
        out = kernel.blockwise_recorded(record, 0.5, q, k, v, **how)
        torch.testing.assert_close(out, blockwise(q, k, v, **how), rtol=0, atol=0)
        largest = (0.5 * q.double() @ k.double().mT).masked_fill(~past, -math.inf).max()
        torch.testing.assert_close(record.double(), torch.tensor([0.0, 0.0, largest, 1.0]).double(), rtol=1e-6, atol=0)
    q[0, 0, -1] = math.nan
    kernel.blockwise_recorded(record, 0.5, q, k, v, **how)
    assert record[2].isnan()


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("clip", [None, (1.03, -0.03)])
@pytest.mark.parametrize("seq", SEQS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_recorded_of_the_last_rows_is_that_of_fp64(
    cap: float | None,
    clip: tuple[float, float] | None,
    seq: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "_NATIVE_FROM", 1)
    q, k, _ = (x.to(dtype) for x in given(seq))
    found = {kind: torch.full((4,), math.nan) for kind in rows._ROW_KINDS}
    rows.record_rows(found, q, k, scale=0.25, cap=cap, clip=clip)

    later = torch.ones(seq, seq, dtype=torch.bool).triu(1)[-QUERIES:]
    scores = 0.25 * q[:, :, -QUERIES:].double() @ k.double().mT
    tanh = torch.tanh(scores / (cap or math.inf))
    weights = torch.softmax((cap * tanh if cap else scores).masked_fill(later, -math.inf), -1)
    entries, queries = (math.prod(q.shape[:2]) * count for count in ((~later).sum(), len(later)))
    sums = {"entropy": torch.special.entr(weights).sum(), "one_hot": (weights.amax(-1) > ONE_HOT).sum()}
    if cap:
        sums["saturation"] = tanh.square().masked_fill(later, 0).sum()
    if clip:
        stretched = (1.03 + 0.03) * weights - 0.03
        sums["clipped"] = ((stretched <= 0) | (stretched >= 1)).masked_fill(later, False).sum()
    for kind, total in sums.items():
        record = found[kind].double()
        torch.testing.assert_close(record[0], total.double(), rtol=1e-5, atol=0)
        assert record[3] == (queries if kind in ("entropy", "one_hot") else entries)
    assert seq < 33 or cap or 0 < sums["one_hot"] < queries


def test_code_that_cannot_be_built_leaves_the_blocks_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    q, _, v = (x.bfloat16() for x in given(40))
    monkeypatch.setattr(native, "_NATIVE_FROM", 1)
    monkeypatch.setattr(native, "BLOCK_CODE", "this is no C++")
    native._block_library.cache_clear()
    try:
        assert not native.is_native(q, v)
    finally:
        native._block_library.cache_clear()


def test_products_of_other_code_keep_their_precision() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    q, k, v = (x.bfloat16() for x in given(8))
    blockwise(q, k, v)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError):
        blockwise(q, k, v[:, :, :, None])
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention trains on CUDA alone, and there is none here")
@pytest.mark.parametrize("middle", ["plain", "temperature", "cap", "window"])
def test_flex_attention_equals_the_formula(middle: str, tmp_path: Path) -> None:
    inputs, grad = given(256), torch.ones(2, HEADS, 256, WIDTH)
    expected = results(partial(formula, middle), [x.double() for x in inputs], grad.double())
    core = compiled(middle, "flex", tmp_path)
    found = results(core, [x.cuda() for x in inputs], grad.cuda())
    assert max(errors([x.cpu() for x in found], expected)) < 1e-5

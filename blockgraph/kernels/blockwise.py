"""Attention in square blocks of scores, with a running softmax, computed again in the backward pass.

Axes: B batch, H heads, G heads taken together, T queries, S keys, R rows and C columns of a block, K features. Memory
grows with T and never with T * S (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). In bf16 on
a CPU the blocks are C++ (`native`); what is here serves every other dtype and device.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blockgraph.kernels.cpp import has_compiler
from blockgraph.kernels.native import NATIVE_BLOCK, BlockRule, is_native, native_backward, native_forward
from blockgraph.kernels.probes import largest_record

_BLOCK = 256  # rows of a block at most
_GRAIN = 32  # rows of a block are a multiple of this, which matrix products like
_TOGETHER = 8  # heads taken together at most, so that their scores stay in the caches of a CPU
_COMPILED_FROM = 512  # tokens; compiling takes seconds, which shorter sequences do not earn back


def blockwise(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    *,
    scale: float | Tensor = 1.0,
    cap: float | Tensor | None = None,
    clip: tuple[float | Tensor, float | Tensor] | None = None,
    window: int | None = None,
) -> Tensor:
    """`clip(softmax(mask(cap * tanh(scale * q k / cap)))) v`, causal, for a positive scale; clip is (zeta, gamma).

    Scores and softmax are in fp32, and products of bf16 are not rounded before them. Gives [batch, heads, seq, K].
    """
    return _attended(q_BHTK, k_BHSK, v_BHSK, scale, cap, clip, window)[0]


def blockwise_recorded(
    record: Tensor,
    unit: float | Tensor,
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    *,
    scale: float | Tensor = 1.0,
    cap: float | Tensor | None = None,
    clip: tuple[float | Tensor, float | Tensor] | None = None,
) -> Tensor:
    """The same, which writes the record of the largest product of a query with a key that it sees, times a unit."""
    out_BHTK, _, _, largest_BHN = _attended(q_BHTK, k_BHSK, v_BHSK, scale, cap, clip, None)
    record.copy_(largest_record(largest_BHN.detach().amax() * unit))
    return out_BHTK


def _attended(
    q: Tensor, k: Tensor, v: Tensor, scale: float | Tensor, cap: float | Tensor | None,
    clip: tuple[float | Tensor, float | Tensor] | None, window: int | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `_attend` gives, with gradients."""
    found: tuple[Tensor, ...] = _ATTEND(
        q, k, v, rule_numbers(q, scale, cap, clip), cap is not None, clip is not None, window
    )
    return found


def rule_numbers(
    like: Tensor, scale: float | Tensor, cap: float | Tensor | None, clip: tuple[float | Tensor, float | Tensor] | None
) -> Tensor:
    """Scale, cap, zeta and gamma as a tensor, so that the blocks are compiled once for all layers and all specs."""
    given = (scale, cap, *(clip or (None, None)))
    return torch.stack([_number(1.0 if value is None else value, like) for value in given])


def _number(value: float | Tensor, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float32, device=like.device)


@dataclass
class _Blocks:
    """How `seq` tokens are cut into blocks of equal size, and which of them see which."""

    seq: int
    window: int | None
    device: torch.device
    biases: dict[int, Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = -(-self.seq // _BLOCK)
        self.size = -(-self.seq // (count * _GRAIN)) * _GRAIN
        self.rows = [slice(first, first + self.size) for first in range(0, count * self.size, self.size)]

    def padded(self, x_BHTK: Tensor) -> Tensor:
        """Zeros behind the last token, up to whole blocks; no query of a token sees them."""
        missing = self.rows[-1].stop - self.seq
        return F.pad(x_BHTK, (0, 0, 0, missing)) if missing else x_BHTK

    def seen(self, rows: slice) -> Iterator[tuple[slice, Tensor | None]]:
        """Blocks of keys that some of these queries see, with a bias where something in them is hidden.

        The queries' own block comes first, so that each row has a finite score from then on.
        """
        for columns in reversed(self.rows[: rows.start // self.size + 1]):
            distance = rows.start - columns.start
            if self.window is None or distance - self.size + 1 < self.window:
                yield columns, self.bias(distance)

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled: there is a compiler, and the sequence is long enough to earn it back."""
        return self.seq >= _COMPILED_FROM and has_compiler()

    def bias(self, distance: int) -> Tensor | None:
        """Minus infinity where a key is later than its query, or `window` tokens before it; None where it never is."""
        if distance not in self.biases:
            back_RC = torch.arange(self.size, device=self.device)[:, None] - torch.arange(self.size, device=self.device)
            back_RC = back_RC + distance
            hidden_RC = (back_RC < 0) if self.window is None else (back_RC < 0) | (back_RC >= self.window)
            # A sum is vectorized by torch.compile, and a mask is not.
            bias_RC = torch.zeros(hidden_RC.shape, device=self.device).masked_fill(hidden_RC, -math.inf)
            self.biases[distance] = bias_RC if hidden_RC.any() else None
        return self.biases[distance]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, numbers: Tensor, capped: bool, clipped: bool, window: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, the log of each row's normaliser, the largest product of each block of rows with keys that they see.

    Before the last one, for a clip, stands the output of the weights that it leaves alone.
    """
    results = _results(q, v, clipped)
    if is_native(q, v):
        native_forward(q, k, v, results, BlockRule(numbers.tolist(), capped, clipped, window))
        return results
    blocks = _Blocks(q.shape[2], window, q.device)
    padded = [blocks.padded(x) for x in (q, k, v)]
    with torch.no_grad():
        for group in _groups(q):
            given, places = [x[group] for x in padded], [x[group] for x in results]
            _group_forward(given, places, blocks, *_chosen(numbers, capped, clipped))
    return results


def _attend_fake(
    q: Tensor, k: Tensor, v: Tensor, numbers: Tensor, capped: bool, clipped: bool, window: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `_attend` gives, without values."""
    return _results(q, v, clipped)


def _gradients_of(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, inner: Tensor, numbers: Tensor,
    capped: bool, clipped: bool, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v; `inner` is the output of the weights through which a gradient passes."""
    results = _gradients_fake(grad, q, k, v, lse, inner, numbers, capped, clipped, window)
    if is_native(q, v):
        native_backward((grad, q, k, v, lse, inner), results, BlockRule(numbers.tolist(), capped, clipped, window))
        return results
    blocks = _Blocks(q.shape[2], window, q.device)
    padded = [blocks.padded(x) for x in (grad, q, k, v, lse, inner)]
    with torch.no_grad():
        for group in _groups(q):
            given, places = [x[group] for x in padded], [x[group] for x in results]
            _group_backward(given, places, blocks, *_chosen(numbers, capped, clipped))
    return results


def _gradients_fake(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, inner: Tensor, numbers: Tensor,
    capped: bool, clipped: bool, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `_gradients_of` gives, without values."""
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _results(q: Tensor, v: Tensor, clipped: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the results; features of all heads lie side by side, so that merging the heads copies nothing."""
    batch, heads, seq, features = *q.shape[:3], v.shape[-1]
    out_BHTK, inner_BHTK = (v.new_empty(batch, n, heads, features).transpose(1, 2) for n in (seq, clipped * seq))
    lse_BHT1 = q.new_empty(batch, heads, seq, 1, dtype=torch.float32)
    largest_BHN = q.new_full((batch, heads, -(-seq // NATIVE_BLOCK)), -math.inf, dtype=torch.float32)
    return out_BHTK, lse_BHT1, inner_BHTK, largest_BHN


def _registered() -> Any:
    """The two as operators that torch.compile takes as they are, with the gradient of one in the other.

    Each module that carries this text has operators of its own, so that texts of two versions can be loaded together.
    """
    home = __name__.replace(".", "_")
    forward = torch.library.custom_op(f"{home}::attend", _attend, mutates_args=())
    backward = torch.library.custom_op(f"{home}::attend_backward", _gradients_of, mutates_args=())
    forward.register_fake(_attend_fake)
    backward.register_fake(_gradients_fake)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        q, k, v, numbers, *ctx.kind = inputs
        out, lse, inner, _ = output
        ctx.save_for_backward(q, k, v, lse, inner if inputs[5] else out, numbers)

    def gradient(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward(grad, *ctx.saved_tensors, *ctx.kind), None, None, None, None)

    forward.register_autograd(gradient, setup_context=keep)
    return forward


_ATTEND = _registered()


def _groups(q_BHTK: Tensor) -> Iterator[tuple[int, slice]]:
    """Each sequence, with as many heads at a time as are well taken together."""
    batch, heads = q_BHTK.shape[:2]
    most = _TOGETHER if q_BHTK.device.type == "cpu" else heads
    count = next(count for count in range(min(most, heads), 0, -1) if heads % count == 0)
    return ((sequence, slice(first, first + count)) for sequence in range(batch) for first in range(0, heads, count))


def _chosen(numbers: Tensor, capped: bool, clipped: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Scale, cap, and the clip's zeta and gamma, as far as there are such."""
    return numbers[0], numbers[1] if capped else None, numbers[2:] if clipped else None


def _group_forward(
    given: list[Tensor], places: list[Tensor], blocks: _Blocks,
    scale: Tensor, cap: Tensor | None, clip: Tensor | None,
) -> None:  # fmt: skip
    """Fill in what `_attend` gives for heads taken together."""
    out, lse, inner, largest = places
    for number, rows in enumerate(blocks.rows):
        peaks_GR1, *values = _row(given, blocks, rows, scale, cap, clip)
        largest[:, number] = peaks_GR1[:, : blocks.seq - rows.start].amax((1, 2))
        for result, value in zip((lse, out, inner), values, strict=False):
            place = result[:, rows]
            place.copy_(value[:, : place.shape[1]])


def _group_backward(
    given: list[Tensor], places: list[Tensor], blocks: _Blocks,
    scale: Tensor, cap: Tensor | None, clip: Tensor | None,
) -> None:  # fmt: skip
    """Fill in the gradients of q, k and v for heads taken together."""
    gradients = [torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in given[1:4]]
    for rows in blocks.rows:
        _row_backward(given, gradients, blocks, rows, scale, cap, clip)
    for place, value in zip(places, gradients, strict=True):
        place.copy_(value[:, : blocks.seq])


def _means(grad: Tensor, inner: Tensor) -> Tensor:
    """Each row's mean of the weights' gradient."""
    return (grad.float() * inner.float()).sum(-1, keepdim=True)


def _row(
    given: list[Tensor], blocks: _Blocks, rows: slice, scale: Tensor, cap: Tensor | None, clip: Tensor | None
) -> tuple[Tensor, ...]:
    """The largest product of each row, and what `_attend` gives for one block of rows."""
    q, k, v = given
    q_GRK = q[:, rows]
    most_GR1 = q.new_full((*q_GRK.shape[:2], 1), -math.inf, dtype=torch.float32)
    peak_GR1, norm_GR1 = most_GR1.clone(), torch.zeros_like(most_GR1)
    out_GRK = torch.zeros(*q_GRK.shape[:2], v.shape[-1], device=q.device)
    for columns, bias in blocks.seen(rows):
        values = None if clip is not None else v[:, columns]
        sums = (most_GR1, norm_GR1, out_GRK, peak_GR1)
        _compiled(_add, blocks)(q_GRK, k[:, columns], values, bias, scale, cap, *sums)
    logs_GR1 = most_GR1 + norm_GR1.log()
    if clip is None:
        return peak_GR1, logs_GR1, out_GRK / norm_GR1
    inner_GRK = torch.zeros_like(out_GRK)
    for columns, bias in blocks.seen(rows):
        clipped = _compiled(_add_clipped, blocks)
        clipped(q_GRK, k[:, columns], v[:, columns], bias, scale, cap, clip, logs_GR1, out_GRK, inner_GRK)
    return peak_GR1, logs_GR1, out_GRK, inner_GRK


def _row_backward(
    given: list[Tensor], gradients: list[Tensor], blocks: _Blocks, rows: slice,
    scale: Tensor, cap: Tensor | None, clip: Tensor | None,
) -> None:  # fmt: skip
    """Add what one block of rows gives to the gradients of q, k and v."""
    grad, q, k, v, lse, inner = given
    dq, dk, dv = gradients
    grad_GRK = grad[:, rows]
    mean_GR1 = _means(grad_GRK, inner[:, rows])
    here = (q[:, rows], grad_GRK, lse[:, rows], mean_GR1, dq[:, rows])
    for columns, bias in blocks.seen(rows):
        there = (k[:, columns], v[:, columns], dk[:, columns], dv[:, columns])
        _compiled(_add_gradients, blocks)(*here, *there, bias, scale, cap, clip)


def _add(
    q: Tensor, k: Tensor, v: Tensor | None, bias: Tensor | None, scale: Tensor, cap: Tensor | None,
    most: Tensor, norm: Tensor, out: Tensor, peak: Tensor,
) -> None:  # fmt: skip
    """Add one block to the running softmax: the largest score so far, the sum of exponentials, the sum of values.

    `peak` is the largest product so far.
    """
    products = torch.bmm(q.float(), k.float().mT)
    visible = products if bias is None else products + bias
    # A cap rises with its scores, so the largest comes from the largest product.
    product = visible.amax(-1, keepdim=True)
    peak.copy_(torch.maximum(peak, product))
    larger = torch.maximum(most, _scores(product, scale, cap)[0])
    weights, _ = _weights(products, bias, scale, cap, larger)
    shrunk = torch.exp(most - larger)
    norm.mul_(shrunk).add_(weights.sum(-1, keepdim=True))
    if v is not None:
        out.mul_(shrunk).add_(torch.bmm(weights.to(v.dtype), v))
    most.copy_(larger)


def _add_clipped(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: Tensor, cap: Tensor | None, clip: Tensor,
    lse: Tensor, out: Tensor, inner: Tensor,
) -> None:  # fmt: skip
    """Add one block to the sums of values under clipped weights: all of them, and those that the clip leaves alone."""
    weights, _ = _weights(torch.bmm(q.float(), k.float().mT), bias, scale, cap, lse)
    clipped, slope = _clipped(weights, clip)
    out.add_(torch.bmm(clipped.to(v.dtype), v))
    inner.add_(torch.bmm((weights * slope).to(v.dtype), v))


def _add_gradients(
    q: Tensor, grad: Tensor, lse: Tensor, mean: Tensor, dq: Tensor,
    k: Tensor, v: Tensor, dk: Tensor, dv: Tensor,
    bias: Tensor | None, scale: Tensor, cap: Tensor | None, clip: Tensor | None,
) -> None:  # fmt: skip
    """Add what one block gives to the gradients; `mean` is each row's mean of the weights' gradient."""
    weights, rise = _weights(torch.bmm(q.float(), k.float().mT), bias, scale, cap, lse)
    d_weights = torch.bmm(grad.float(), v.float().mT)
    used = weights
    if clip is not None:
        used, slope = _clipped(weights, clip)
        d_weights = d_weights * slope
    d_products = (weights * (d_weights - mean) * rise).to(q.dtype)
    dv.add_(torch.bmm(used.to(v.dtype).mT, grad))
    dq.add_(torch.bmm(d_products, k))
    dk.add_(torch.bmm(d_products.mT, q))


def _scores(products: Tensor, scale: Tensor, cap: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores of products, and how fast they rise with them."""
    if cap is None:
        return products * scale, scale
    # tanh by one exponential, which takes less than half the time; its error is a rounding of the cap.
    tanh = 1.0 - 2.0 / (torch.exp(products * (2.0 * scale / cap)) + 1.0)
    return cap * tanh, scale * (1.0 - tanh * tanh)


def _weights(
    products: Tensor, bias: Tensor | None, scale: Tensor, cap: Tensor | None, lse: Tensor
) -> tuple[Tensor, Tensor]:
    """Softmax weights of products with a known normaliser, and how fast the scores rise."""
    scores, rise = _scores(products, scale, cap)
    return torch.exp((scores if bias is None else scores + bias) - lse), rise


def _clipped(weights: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Clipped weights, and how fast they rise with the weights."""
    zeta, gamma = clip[0], clip[1]
    stretched = (zeta - gamma) * weights + gamma
    clipped = stretched.clamp(0.0, 1.0)
    return clipped, torch.where(stretched == clipped, zeta - gamma, 0.0)


def _compiled(function: Callable[..., None], blocks: _Blocks) -> Callable[..., None]:
    return _compiled_once(function) if blocks.compiled else function


@cache
def _compiled_once(function: Callable[..., None]) -> Callable[..., None]:
    return torch.compile(function, dynamic=False)

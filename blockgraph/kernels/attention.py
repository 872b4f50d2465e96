"""The parts of attention. Axes: B batch, T queries, S keys, H heads, K features of a head, D = H * K."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from blockgraph.kernels.base import placed


def split_heads(x_BTD: Tensor, heads: int, parts: int | None = None) -> Tensor | tuple[Tensor, ...]:
    """[batch, seq, parts * heads * K] to `parts` views [batch, heads, seq, K]; one view when `parts` is None."""
    x_BTPHK = x_BTD.reshape(*x_BTD.shape[:2], parts or 1, heads, -1)
    values = tuple(x_BTHK.transpose(1, 2) for x_BTHK in x_BTPHK.unbind(2))
    return values[0] if parts is None or parts == 1 else values


def merge_heads(x_BHTK: Tensor) -> Tensor:
    """[batch, heads, seq, K] to [batch, seq, heads * K]."""
    return x_BHTK.transpose(1, 2).flatten(2)


def slowed(frequency: Tensor, factor: float, length: float, slow: float, fast: float, base: float, ramp: str) -> Tensor:
    """Frequencies divided by `factor` where they turn `slow` times in `length` tokens, kept from `fast` turns on.

    Between, they change in step with the turns, or with the index of the pair as YaRN has it.
    """
    if ramp == "turns":
        kept = ((frequency * length / (2.0 * math.pi) - slow) / (fast - slow)).clamp(0.0, 1.0)
    else:
        pairs = frequency.shape[0]
        first, last = (pairs * math.log(length / (turns * 2.0 * math.pi)) / math.log(base) for turns in (fast, slow))
        if ramp == "whole_pairs":
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0.0), min(last, 2.0 * pairs - 1.0)
        index = torch.arange(pairs, device=frequency.device, dtype=torch.float32)
        kept = 1.0 - ((index - first) / (last - first if last != first else 1e-3)).clamp(0.0, 1.0)
    return frequency * (kept + (1.0 - kept) / factor)


def _angles(
    start: int, seq: int, pairs: int, numbers: Sequence[float], ramp: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine [seq, pairs] of the angles that RoPE rotates by, in fp32."""
    base, factor, *turns = numbers
    exponent = torch.arange(pairs, device=device, dtype=torch.float32) / pairs
    position = torch.arange(start, start + seq, device=device, dtype=torch.float32)
    frequency = base**-exponent
    if turns:
        length, slow, fast = turns
        frequency = slowed(frequency, factor, length, slow, fast, base, ramp)
    else:
        frequency = frequency / factor
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


@lru_cache(maxsize=16)
def _kept_angles(*given: Any) -> tuple[Tensor, Tensor]:
    start, seq, pairs, ramp, device, *numbers = given
    return _angles(start, seq, pairs, numbers, ramp, device)


def _registered_angles() -> Any:
    """`_angles`, made once, as an operator: torch.compile would make them again for every number that is rotated."""

    def angles(
        start: int, seq: int, pairs: int, numbers: list[float], ramp: str, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        # Copies, since compiled code may write to what it is given.
        cos, sin = _kept_angles(start, seq, pairs, ramp, device, *numbers)
        return cos.clone(), sin.clone()

    def fake(
        start: int, seq: int, pairs: int, numbers: list[float], ramp: str, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        cos = torch.empty(seq, pairs, device=device)
        return cos, torch.empty_like(cos)

    operator = torch.library.custom_op(f"{__name__.replace('.', '_')}::angles", angles, mutates_args=())
    operator.register_fake(fake)
    return operator


_ANGLES = _registered_angles()


def rope(
    x: Tensor,
    base: float,
    width: int | None = None,
    interleaved: bool = False,
    factor: float = 1.0,
    turns: tuple[float, float, float] | None = None,
    ramp: str = "turns",
    start: int = 0,
) -> Tensor:
    """Rotary embedding of [..., seq, K] for positions from `start` on, in fp32, given back in the dtype of `x`.

    Frequencies are divided by `factor`; where `turns` gives a length and two counts of turns, the fast ones are not.
    """
    rotated, kept = (x, None) if width is None else torch.split(x, [width, x.shape[-1] - width], dim=-1)
    pairs = rotated.shape[-1] // 2
    numbers = [base, factor, *(turns or ())]
    same = all(isinstance(number, (int, float)) for number in numbers)  # for all layers: the others are tensors
    cos, sin = (_ANGLES if same else _angles)(start, x.shape[-2], pairs, numbers, ramp, x.device)
    if interleaved:
        a, b = rotated.float().reshape(*rotated.shape[:-1], pairs, 2).unbind(-1)
        y = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = rotated.float().chunk(2, dim=-1)
        y = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return y.to(x.dtype) if kept is None else torch.cat((y.to(x.dtype), kept), dim=-1)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """`cap * tanh(x / cap)` in fp32, given back in the dtype of `x`."""
    return (cap * torch.tanh(x.float() / cap)).to(x.dtype)


def causal_mask(scores_TS: Tensor, window: int | None = None, documents: Tensor | None = None) -> Tensor:
    """Minus infinity where the key is later than the query, `window` or more tokens before it, or of another document.

    The queries are the last of the tokens that the keys are of. `documents` [batch, keys] numbers them, for scores
    [batch, ..., queries, keys].
    """
    queries, keys = scores_TS.shape[-2:]
    # In fp32, because torch.compile makes slow code of integers and booleans; they are exact to 2^24.
    key_S = torch.arange(keys, dtype=torch.float32, device=scores_TS.device)
    query_T1 = key_S[keys - queries :, None]
    hidden_TS = key_S > query_T1
    if window is not None:
        hidden_TS = hidden_TS | (key_S <= query_T1 - window)
    if documents is not None:
        others = documents[:, keys - queries :, None] != documents[:, None, :]
        hidden_TS = hidden_TS | others.view(len(others), *[1] * (scores_TS.ndim - 3), queries, keys)
    return scores_TS.masked_fill(hidden_TS, float("-inf"))


def watched(logits_BHTS: Tensor, greatest_H: Tensor, training: bool) -> Tensor:
    """The logits as they are; in training `greatest_H` takes each head's greatest one where that is greater.

    Running twice on the same logits, as recomputation does, changes nothing.
    """
    if training:
        seen_H = logits_BHTS.detach().amax(dim=(0, 2, 3)).float()
        greatest_H.copy_(torch.maximum(greatest_H, seen_H))
    return logits_BHTS


def clip_heads(weight_ED: Tensor, greatest_H: Tensor, tau: float, parts: int) -> None:
    """Scale the rows of each head in the first two of the parts by `sqrt(min(1, tau / greatest))`, in place."""
    heads = len(greatest_H)
    factor_PHK = greatest_H.new_ones(parts, heads, weight_ED.shape[0] // (parts * heads))
    factor_PHK[:2] = (tau / greatest_H.clamp(min=tau)).sqrt()[:, None]
    weight_ED.mul_(placed(factor_PHK.reshape(-1, 1), weight_ED))


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis in fp32, given back in the dtype of `x`."""
    return torch.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


def sink_softmax(x_BHTS: Tensor, sink_H: Tensor) -> Tensor:
    """Softmax in fp32 with one more logit for each head, whose own weight is dropped; in the dtype of `x`."""
    sink_BHT1 = sink_H.float().view(-1, *[1] * (x_BHTS.dim() - 2)).expand(*x_BHTS.shape[:-1], 1)
    return torch.softmax(torch.cat((x_BHTS.float(), sink_BHT1), dim=-1), dim=-1)[..., :-1].to(x_BHTS.dtype)


def soft_clip(x: Tensor, zeta: float, gamma: float) -> Tensor:
    """`clip((zeta - gamma) * x + gamma, 0, 1)` in fp32, given back in the dtype of `x`."""
    return ((zeta - gamma) * x.float() + gamma).clamp(0.0, 1.0).to(x.dtype)

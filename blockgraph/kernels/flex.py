"""Attention by torch's FlexAttention. Axes: B batch, H heads, T queries, S keys, K features of a head."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def flex(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, *, scale: float, cap: float | None = None, window: int | None = None
) -> Tensor:
    """`softmax(mask(cap * tanh(scale * q k / cap))) v`, causal, with scores in fp32; trains on CUDA alone."""

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return score if cap is None else cap * torch.tanh(score / cap)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) if window is None else (key <= query) & (query - key < window)

    seq = q_BHTK.shape[2]
    mask = create_block_mask(seen, None, None, seq, seq, device=q_BHTK.device)
    out_BHTK: Tensor = _kernel()(q_BHTK, k_BHSK, v_BHSK, score_mod=capped, block_mask=mask, scale=scale)
    return out_BHTK


@cache
def _kernel() -> Any:
    """Compiled, because without that torch makes all scores."""
    return torch.compile(flex_attention)

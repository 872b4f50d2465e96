"""What a probed step records of the last rows of attention in blocks. Axes: B batch, H heads, T queries, S keys."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blockgraph.kernels.attention import causal_mask, soft_cap, soft_clip
from blockgraph.kernels.blockwise import rule_numbers
from blockgraph.kernels.native import BlockRule, is_native, native_rows
from blockgraph.kernels.probes import ONE_HOT, QUERIES, clipped, last_rows, one_hot, row_entropy, saturation

_ROW_KINDS = ("saturation", "entropy", "one_hot", "clipped")


def record_rows(
    records: Mapping[str, Tensor],
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    *,
    scale: float | Tensor = 1.0,
    cap: float | Tensor | None = None,
    clip: tuple[float | Tensor, float | Tensor] | None = None,
) -> None:
    """Write to each of `records`, by kind, that of the last queries; scores are in fp32, as in `blockwise`."""
    numbers = rule_numbers(q_BHTK, scale, cap, clip)
    found = _ROWS(q_BHTK.detach(), k_BHSK.detach(), numbers.detach(), cap is not None, clip is not None)
    for kind, record in records.items():
        record.copy_(found[_ROW_KINDS.index(kind)])


def _rows_of(q: Tensor, k: Tensor, numbers: Tensor, capped: bool, clips: bool) -> Tensor:
    """Records of all kinds; of a cap or a clip that is not there, zeros."""
    scale, cap, zeta, gamma = given = numbers.tolist()
    if is_native(q, q):
        return native_rows(q, k, BlockRule(given, capped, clips, None), min(QUERIES, q.shape[2]), ONE_HOT)
    scores = torch.matmul(last_rows(q).float(), k.float().mT) * scale
    scores = soft_cap(scores, cap) if capped else scores
    weights = torch.softmax(causal_mask(scores), -1)
    none = scores.new_zeros(4)
    saturated = saturation(scores, cap, causal=True) if capped else none
    outside = clipped(soft_clip(weights, zeta, gamma), causal=True) if clips else none
    return torch.stack((saturated, row_entropy(weights), one_hot(weights), outside))


def _rows_fake(q: Tensor, k: Tensor, numbers: Tensor, capped: bool, clips: bool) -> Tensor:
    """What `_rows_of` gives, without values."""
    return q.new_empty(4, 4, dtype=torch.float32)


def _registered_rows() -> Any:
    """The records as an operator that torch.compile takes as it is."""
    rows = torch.library.custom_op(f"{__name__.replace('.', '_')}::rows", _rows_of, mutates_args=())
    rows.register_fake(_rows_fake)
    return rows


_ROWS = _registered_rows()

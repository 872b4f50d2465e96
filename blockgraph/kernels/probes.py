"""What a probed step records. Axes: T queries, S keys; a record is [sum, l2 norm, largest absolute value, count]."""

import math
from typing import Any

import torch
from torch import Tensor

from blockgraph.kernels.records import (
    is_recorded,
    native_above,
    native_entropy,
    native_largest,
    native_moments,
    native_outside,
    native_squares,
)

QUERIES = 32  # the last ones of a sequence, of which rows of attention are recorded
PART = 128  # queries whose scores are made again at a time
ONE_HOT = 0.9
LEAST_WEIGHT = 1e-30  # its logarithm is as quick as any; that of 0 is not, and p * log p is 0 for both


class Watch(torch.autograd.Function):
    """Gives a value on as it is, and writes the record of its gradient to a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor) -> Tensor:
        """The value."""
        ctx.row = row
        # Without the mark of a view, of which FSDP warns on what a model puts out; nothing is changed in place.
        same: Tensor = torch.ops.aten._unsafe_view.default(x, x.shape)
        return same

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient, once it is recorded."""
        ctx.row.copy_(moments(grads[0]))
        return grads[0], None


def watch(x: Tensor, row: Tensor) -> Tensor:
    """The value, whose gradient will be recorded in a row."""
    watched: Tensor = Watch.apply(x, row)  # type: ignore[no-untyped-call]
    return watched


def moments(x: Tensor) -> Tensor:
    """The record of all entries, in fp32."""
    if is_recorded(x):
        return native_moments(x)
    x = x.detach().float()
    norm, largest = torch.linalg.vector_norm(x), torch.linalg.vector_norm(x, math.inf)
    return torch.stack((x.sum(), norm, largest, torch.full_like(norm, x.numel())))


def largest_pair(scores_TS: Tensor, causal: bool) -> Tensor:
    """A record whose maximum is the largest score, with its sign; keys after the query do not count if `causal`."""
    if is_recorded(scores_TS):
        return native_largest(scores_TS, causal)
    largest_TS = scores_TS.detach().reshape(-1, *scores_TS.shape[-2:]).amax(0).float()
    if causal:
        largest_TS = largest_TS.masked_fill(later(largest_TS), -math.inf)
    return largest_record(largest_TS.amax())


def largest_record(largest: Tensor) -> Tensor:
    """A record of which there is a maximum alone."""
    zero = torch.zeros_like(largest)
    return torch.stack((zero, zero, largest, zero + 1))


def query_parts(q_BHTK: Tensor, k_BHSK: Tensor, causal: bool) -> list[tuple[Tensor, Tensor]]:
    """Some queries at a time, each part with the keys that it may see; on a CPU those of one sequence.

    Of one sequence the scores stay in its caches; what is compiled is one graph for all.
    """
    together = 1 if q_BHTK.is_cpu and not torch.compiler.is_compiling() else len(q_BHTK)
    pairs = list(zip(torch.split(q_BHTK, together), torch.split(k_BHSK, together), strict=True))
    ends = range(PART, q_BHTK.shape[-2] + PART, PART)
    return [(q[..., end - PART : end, :], k[..., :end, :] if causal else k) for q, k in pairs for end in ends]


def last_rows(x_TS: Tensor) -> Tensor:
    """The rows of the last queries, which see the most keys."""
    return x_TS[..., -QUERIES:, :]


def row_entropy(weights: Tensor) -> Tensor:
    """The record of the rows' entropies, in nats."""
    weights = weights.detach().contiguous()
    if is_recorded(weights):
        return native_entropy(weights, LEAST_WEIGHT)
    p = weights.float()
    return moments(-torch.linalg.vecdot(p, p.clamp_min(LEAST_WEIGHT).log()))


def one_hot(weights: Tensor) -> Tensor:
    """A record whose mean is the share of rows of which one entry has almost all."""
    weights = weights.detach().contiguous()
    if is_recorded(weights):
        return native_above(weights, ONE_HOT)
    return moments((weights.amax(-1) > ONE_HOT).float())


def saturation(capped: Tensor, cap: float | Tensor, causal: bool = False) -> Tensor:
    """A record whose mean is `tanh(x / cap)^2`, one minus the slope of the cap."""
    capped = capped.detach().contiguous()
    if is_recorded(capped) and not isinstance(cap, Tensor):
        return native_squares(capped, causal, cap)
    return seen((capped.float() / cap).square(), causal)


def clipped(weights: Tensor, causal: bool = False) -> Tensor:
    """A record whose mean is the share of entries at 0 or 1."""
    weights = weights.detach().contiguous()
    if is_recorded(weights):
        return native_outside(weights, causal)
    return seen(((weights <= 0) | (weights >= 1)).float(), causal)


def seen(x: Tensor, causal: bool) -> Tensor:
    """A record whose mean is that of all entries; if `causal`, of those [..., queries, keys] not after the query."""
    count = x.new_tensor(x.numel())
    if causal:
        hidden_TS = later(x)
        x, count = x.masked_fill(hidden_TS, 0), count / hidden_TS.numel() * (~hidden_TS).sum()
    total = x.sum()
    return torch.stack((total, total * 0, total * 0, count))


def later(x_TS: Tensor) -> Tensor:
    """Where the key comes after the query; the queries are the last ones."""
    queries, keys = x_TS.shape[-2:]
    return torch.ones(queries, keys, dtype=torch.bool, device=x_TS.device).triu(1 + keys - queries)

"""Biases by the distance of two tokens. Axes: B batch, H heads, T queries, S keys, R rows of a table."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def buckets_of(away: Tensor, count: int, distance: int) -> Tensor:
    """Buckets of distances: one for each below `count // 2`, then ever longer ranges up to `distance` and beyond."""
    single = count // 2
    share = torch.log(away.clamp(min=1).float() / single) / math.log(distance / single)
    ranges = (single + (share * (count - single)).long()).clamp(max=count - 1)
    return torch.where(away < single, away, ranges)


def relative_bias(scores_BHTS: Tensor, weight_RH: Tensor, distance: int, both_sides: bool = False) -> Tensor:
    """The scores with a bias for each head and each distance; without `both_sides` later keys are at distance 0.

    The queries are the last of the tokens that the keys are of.
    """
    queries, keys = scores_BHTS.shape[-2:]
    rows = torch.arange(keys - queries, keys, device=scores_BHTS.device)
    ahead_TS = torch.arange(keys, device=scores_BHTS.device) - rows[:, None]
    if both_sides:
        side = weight_RH.shape[0] // 2
        bucket_TS = buckets_of(ahead_TS.abs(), side, distance) + side * (ahead_TS > 0)
    else:
        bucket_TS = buckets_of((-ahead_TS).clamp(min=0), weight_RH.shape[0], distance)
    return scores_BHTS + F.embedding(bucket_TS, weight_RH).permute(2, 0, 1).to(scores_BHTS.dtype)

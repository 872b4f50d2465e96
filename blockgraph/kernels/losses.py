"""What nodes add to the loss of a run, in fp32. Axes: E experts, C chosen of them."""

import torch
from torch import Tensor

from blockgraph.kernels.experts import LEAST_SUM


def no_loss(x: Tensor) -> Tensor:
    """Zero on the device of `x`; what layers carry needs gradients in each or in none, or they are compiled twice."""
    return torch.zeros((), device=x.device, requires_grad=torch.is_grad_enabled())


def balance_loss(logits_E: Tensor, chosen_C: Tensor, sigmoid: bool = False, each: bool = False) -> Tensor:
    """`E * sum over e of f[e] * p[e]` in fp32: shares of the rows that go to an expert, and means of its scores.

    Scores are a softmax of the logits, or a sigmoid divided by its sum. Over all rows, or the mean of what `each`
    sequence of the last axis but one has.
    """
    scores_E = torch.sigmoid(logits_E.float()) if sigmoid else torch.softmax(logits_E.float(), dim=-1)
    if sigmoid:
        scores_E = scores_E / scores_E.sum(-1, keepdim=True).clamp_min(LEAST_SUM)
    sent_E = torch.zeros_like(scores_E).scatter(-1, chosen_C, 1.0)
    axes = [-2] if each else list(range(scores_E.dim() - 1))
    return (sent_E.mean(axes) * scores_E.mean(axes)).sum(-1).mean() * scores_E.shape[-1]


def z_loss(logits_E: Tensor) -> Tensor:
    """`mean(log Z ^ 2)` in fp32, with Z the denominator of a softmax."""
    return torch.logsumexp(logits_E.float(), dim=-1).square().mean()

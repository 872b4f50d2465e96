"""A mixture of experts. Axes: N rows of tokens, C experts chosen for each, E experts, D features in, O out."""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SUM = 1e-20  # of the scores that are divided by it


def route(
    logits_E: Tensor,
    top: int,
    sigmoid: bool = False,
    over_all: bool = False,
    scale: float = 1.0,
    groups: tuple[int, int, int] | None = None,
    bias_E: Tensor | None = None,
    load_E: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The `top` experts of each row with the greatest scores and bias, and their scores in the dtype of the logits.

    Scores are a softmax or a sigmoid of the logits in fp32; unless `over_all`, they are divided by the sum of the
    chosen. `groups` are how many, how many of them open, and how many scores count for one. `load_E` counts the rows.
    """
    scores_E = torch.sigmoid(logits_E.float()) if sigmoid else torch.softmax(logits_E.float(), dim=-1)
    order_E = scores_E if bias_E is None else scores_E + bias_E
    order_E = order_E if groups is None else order_E.masked_fill(closed(order_E, *groups), float("-inf"))
    chosen_C = order_E.topk(top, dim=-1).indices
    if load_E is not None:
        count(load_E, chosen_C)
    weights_C = scores_E.gather(-1, chosen_C)
    if not over_all:
        weights_C = weights_C / weights_C.sum(-1, keepdim=True).clamp_min(LEAST_SUM)
    return chosen_C, (weights_C * scale).to(logits_E.dtype)


def closed(scores_E: Tensor, groups: int, top: int, counting: int) -> Tensor:
    """Where an expert is in none of the `top` groups, by the sum of the greatest scores that count for each."""
    scores_GE = scores_E.reshape(*scores_E.shape[:-1], groups, -1)
    best_G = scores_GE.topk(counting, dim=-1).values.sum(-1)
    closed_G = torch.ones_like(best_G, dtype=torch.bool).scatter(-1, best_G.topk(top, dim=-1).indices, False)
    return closed_G.repeat_interleave(scores_GE.shape[-1], dim=-1)


def count(load_E: Tensor, chosen_C: Tensor) -> None:
    """Add to each expert's load the rows that go to it."""
    rows = chosen_C.detach().flatten()
    load_E.scatter_add_(0, rows, torch.ones_like(rows, dtype=load_E.dtype))


def balance_experts(bias_E: Tensor, load_E: Tensor, step: float) -> None:
    """Raise the bias of experts with less than the mean load by a step, and lower that of those with more."""
    bias_E.add_((load_E.mean() - load_E).sign(), alpha=step)


def expert_linear(x: Tensor, chosen: Tensor, weight_EOD: Tensor, bias_EO: Tensor | None = None) -> Tensor:
    """`x[n] @ weight[chosen[n]].T + bias[chosen[n]]` in the dtype of `x`: [..., D] and [...] to [..., O].

    Where `chosen` has one more axis, each row goes to all experts there: [..., D] and [..., C] to [..., C, O].
    """
    rows = x if x.dim() > chosen.dim() else x.unsqueeze(-2).expand(*chosen.shape, -1)
    weight, bias = weight_EOD.to(x.dtype), None if bias_EO is None else bias_EO.to(x.dtype)
    product = grouped if x.dtype == torch.bfloat16 and (x.is_cuda or torch.compiler.is_compiling()) else looped
    y_NO = product(rows.reshape(-1, x.shape[-1]), chosen.flatten(), weight, bias)
    return y_NO.view(*chosen.shape, -1)


def looped(x_ND: Tensor, chosen_N: Tensor, weight_EOD: Tensor, bias_EO: Tensor | None) -> Tensor:
    """One product for each expert that is chosen, with the rows sorted by expert."""
    order_N = chosen_N.argsort(stable=True)
    parts = torch.split(x_ND.index_select(0, order_N), counted(chosen_N, weight_EOD.shape[0]))
    biases = [None] * weight_EOD.shape[0] if bias_EO is None else bias_EO.unbind()
    # unbind, because its backward pass makes one gradient of all experts, with zeros for those without rows
    each = zip(parts, weight_EOD.unbind(), biases, strict=True)
    y_NO = torch.cat([F.linear(part, weight_OD, bias_O) for part, weight_OD, bias_O in each if len(part)])
    return y_NO.index_select(0, order_N.argsort())


def counted(chosen_N: Tensor, experts: int) -> list[int]:
    """How many rows each expert gets; those of a tensor without data are spread evenly, as a router learns to."""
    # Told by the attribute, because importing FakeTensor takes half a second.
    if chosen_N.is_meta or hasattr(chosen_N, "fake_mode"):
        each, more = divmod(chosen_N.numel(), experts)
        return [each + (expert < more) for expert in range(experts)]
    counts: list[int] = torch.bincount(chosen_N, minlength=experts).tolist()
    return counts


def grouped(x_ND: Tensor, chosen_N: Tensor, weight_EOD: Tensor, bias_EO: Tensor | None) -> Tensor:
    """One grouped product of bf16, whose shapes do not depend on what is chosen."""
    rows, experts = len(x_ND), len(weight_EOD)
    every_E = torch.arange(experts, device=x_ND.device)
    # A row of zeros for every expert, because the backward pass fails on an expert without rows.
    padded_M = torch.cat((chosen_N, every_E))
    order_M = padded_M.argsort(stable=True)
    sorted_MD = F.pad(x_ND, (0, 0, 0, experts)).index_select(0, order_M)
    ends_E = (padded_M[:, None] == every_E).sum(0).cumsum(0).to(torch.int32)
    y_MO = F.grouped_mm(sorted_MD, weight_EOD.mT, offs=ends_E)
    y_NO = y_MO.index_select(0, order_M.argsort()[:rows])
    return y_NO if bias_EO is None else y_NO + bias_EO.index_select(0, chosen_N)


def weighted_sum(x_CD: Tensor, weights_C: Tensor) -> Tensor:
    """`sum over c of weights[..., c] * x[..., c, :]` in fp32, given back in the dtype of `x`."""
    return (x_CD.float() * weights_C.float().unsqueeze(-1)).sum(-2).to(x_CD.dtype)

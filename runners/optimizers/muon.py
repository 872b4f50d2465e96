"""Muon for matrices, and for stacks of them, that may be sharded. Axes of a stack: E experts, O out, D in."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr
from torch.optim.optimizer import Optimizer, ParamsT

from blockgraph.kernels.base import assign, full, local


class Muon(Optimizer):
    """torch's Muon (Jordan et al. 2024) with the momentum sharded like the matrices.

    Newton-Schulz needs the whole matrix, so every process gathers the update, orthogonalises it and keeps its own
    shard of the result. Its five rounds take each process as many FLOPs as training on 3 to 5 tokens for every row of
    the matrix's shorter side. Momentum, decay and the matrix itself are never gathered.

    A tensor of three axes is a stack of matrices, those of experts, each of them orthogonalised for itself. FSDP2 cuts
    it between two matrices, so every process does the whole of those that it holds, and nothing is gathered.
    """

    def __init__(self, params: ParamsT, **settings: Any):
        # torch's own checks the settings; of parameters it takes matrices alone.
        checked = torch.optim.Muon([nn.Parameter(torch.empty(1, 1))], **settings)
        super().__init__(params, checked.defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad.to(matrix.dtype), group)

    def _move(self, matrix: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        change = _change(_update(grad, buffer, group), group)
        matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)


def direction(matrix: Tensor, buffer: Tensor, group: dict[str, Any]) -> Tensor:
    """The orthogonalised update of the last step, before the learning rate; the matrix has its gradient still."""
    assert matrix.grad is not None
    return -_change(_update(matrix.grad.to(matrix.dtype), buffer, group), group | {"lr": 1.0})


def _update(grad: Tensor, buffer: Tensor, group: dict[str, Any]) -> Tensor:
    """What is orthogonalised, once the momentum has the gradient in it."""
    return grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def _change(update: Tensor, group: dict[str, Any]) -> Tensor:
    """What is added to a matrix or a stack of them, sharded as the update is, without decay."""
    change = torch.empty_like(update)
    if update.ndim == 2:
        assign(change, _torchs(full(update), group))
    else:
        local(change).copy_(_stacked(local(update), group))
    return change


def _stacked(update_EOD: Tensor, group: dict[str, Any]) -> Tensor:
    """What torch's Muon adds to each matrix of a stack, in products of all of them at once."""
    (a, b, c), eps = group["ns_coefficients"], group["eps"]
    tall = update_EOD.shape[1] > update_EOD.shape[2]
    x_EAB = update_EOD.bfloat16().mT if tall else update_EOD.bfloat16()
    x_EAB = x_EAB / x_EAB.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(group["ns_steps"]):
        gram_EAA = x_EAB @ x_EAB.mT
        x_EAB = torch.baddbmm(x_EAB, torch.baddbmm(gram_EAA, gram_EAA, gram_EAA, beta=b, alpha=c), x_EAB, beta=a)
    change_EOD = x_EAB.mT if tall else x_EAB
    return change_EOD.to(update_EOD.dtype) * -_adjust_lr(group["lr"], group["adjust_lr_fn"], update_EOD.shape[1:])


def _torchs(update: Tensor, group: dict[str, Any]) -> Tensor:
    """What torch's Muon adds to a matrix for a whole update, without momentum and decay."""
    settings = {key: group[key] for key in ("lr", "eps", "ns_steps", "ns_coefficients", "adjust_lr_fn")}
    matrix = nn.Parameter(torch.zeros_like(update))
    matrix.grad = update
    muon = torch.optim.Muon([matrix], **settings, momentum=0.0, nesterov=False, weight_decay=0.0)
    muon.step()  # type: ignore[no-untyped-call]
    return matrix.detach()

"""Muon for matrices that may be sharded."""

from typing import Any

import torch
from torch import Tensor, nn

from blockgraph.kernels.base import assign, full


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024) with the momentum sharded like the matrices.

    Newton-Schulz needs the whole matrix, so every process gathers the update, orthogonalises it and keeps its own
    shard of the result. Its five rounds take each process as many FLOPs as training on 3 to 5 tokens for every row of
    the matrix's shorter side. Momentum, decay and the matrix itself are never gathered.
    """

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
        change = torch.empty_like(matrix)
        assign(change, _change(full(_update(grad, buffer, group)), group))
        matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)


def direction(matrix: Tensor, buffer: Tensor, group: dict[str, Any]) -> Tensor:
    """The orthogonalised update of the last step, before the learning rate; the matrix has its gradient still."""
    assert matrix.grad is not None
    update = _update(matrix.grad.to(matrix.dtype), buffer, group)
    found = torch.empty_like(matrix)
    assign(found, -_change(full(update), group | {"lr": 1.0}))
    return found


def _update(grad: Tensor, buffer: Tensor, group: dict[str, Any]) -> Tensor:
    """What is orthogonalised, once the momentum has the gradient in it."""
    return grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def _change(update: Tensor, group: dict[str, Any]) -> Tensor:
    """What torch's Muon adds to a matrix for a whole update, without momentum and decay."""
    settings = {key: group[key] for key in ("lr", "eps", "ns_steps", "ns_coefficients", "adjust_lr_fn")}
    matrix = nn.Parameter(torch.zeros_like(update))
    matrix.grad = update
    muon = torch.optim.Muon([matrix], **settings, momentum=0.0, nesterov=False, weight_decay=0.0)
    muon.step()  # type: ignore[no-untyped-call]
    return matrix.detach()

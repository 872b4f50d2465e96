"""Muon for matrices that may be sharded."""

from typing import Any

import torch
from torch import Tensor, nn

from blockgraph.kernels.base import assign, full


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024) with the momentum sharded like the matrices.

    Newton-Schulz needs the whole matrix, so every process gathers the update, orthogonalises it and keeps its own
    shard of the result. That all of them compute the same is a small part of a step: some 30 products with the matrix,
    against six for every token of the batch. The momentum, the decay and the matrix itself are never gathered.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, group)

    def _move(self, matrix: Tensor, group: dict[str, Any]) -> None:
        grad, state, momentum = matrix.grad, self.state[matrix], group["momentum"]
        assert grad is not None
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
        buffer.lerp_(grad, 1 - momentum)
        change = torch.empty_like(matrix)
        assign(change, _change(full(grad.lerp(buffer, momentum)), group))
        matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)


def _change(update: Tensor, group: dict[str, Any]) -> Tensor:
    """What torch's Muon adds to a matrix for a whole update, without momentum and decay."""
    settings = {key: group[key] for key in ("lr", "eps", "ns_steps", "ns_coefficients", "adjust_lr_fn")}
    matrix = nn.Parameter(torch.zeros_like(update))
    matrix.grad = update
    muon = torch.optim.Muon([matrix], **settings, momentum=0.0, nesterov=False, weight_decay=0.0)
    muon.step()  # type: ignore[no-untyped-call]
    return matrix.detach()

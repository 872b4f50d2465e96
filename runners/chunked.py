"""Cross-entropy of a linear head whose logits are made a part at a time, and again in the backward pass.

Axes: N tokens, R of them at once, D features, V pieces of the vocabulary, C of them at once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from blockgraph.kernels.plain import linear
from runners.loss import Loss

# Made at once. On a CPU products of this size are as fast as any, and the gradient of x, of which each part is rounded,
# comes nearer to the exact one than with larger ones; a GPU wants fewer of them.
LOGITS, CUDA_LOGITS = 2**20, 2**24
ROWS = 512  # tokens whose gradient a part is added to at once
LEAST = 256  # pieces of the vocabulary at once, however many tokens there are

Bodies = tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., Tensor]]


def chunked_loss(cap: float | None, compiled: bool) -> Loss:
    """The loss of `cap * tanh(logits / cap)`, or without a cap of the logits, where these are a linear head's.

    It takes hidden values [..., D] with the head's weight [V, D] and perhaps its bias [V], and targets [...], and gives
    the mean negative log-likelihood in nats and mean(log Z ^ 2) (PaLM, section 5). Gradients are exact. A logit is
    rounded to the dtype of the hidden values, as in a plain head; what follows is in fp32.
    """
    bodies: Bodies = (_absorb, _gradients)
    if compiled:
        bodies = torch.compile(_absorb, dynamic=False), torch.compile(_gradients, dynamic=False)

    def loss(outputs: tuple[Tensor, ...], targets: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight, *rest = outputs
        bias = rest[0] if rest else None
        nll, z = _Loss.apply(hidden.flatten(0, -2), weight, bias, targets.flatten(), cap, bodies)  # type: ignore[no-untyped-call]
        return nll, z

    return loss


class _Loss(torch.autograd.Function):
    """Both means, and their gradients from log Z of each token and logits that are made again."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, cap: Any, bodies: Bodies
    ) -> tuple[Tensor, Tensor]:
        log_z_N = torch.full(targets_N.shape, float("-inf"), device=x_ND.device)
        found_N = torch.zeros_like(log_z_N)
        for part, local_N in _parts(len(weight_VD), targets_N):
            bias = None if bias_V is None else bias_V[part]
            log_z_N, found_N = bodies[0](x_ND, weight_VD[part], bias, local_N, cap, log_z_N, found_N)
        ctx.save_for_backward(x_ND, weight_VD, bias_V, targets_N, log_z_N)
        ctx.given = cap, bodies
        return (log_z_N - found_N).mean(), log_z_N.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nll: Tensor, z: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_VD, bias_V, targets_N, log_z_N = ctx.saved_tensors
        cap, bodies = ctx.given
        hit_N = (nll / len(targets_N)).expand_as(log_z_N)
        slope_N = hit_N + 2 * z / len(targets_N) * log_z_N
        dx_ND = torch.zeros(x_ND.shape, device=x_ND.device)
        # By shape: what is made like a weight would count as one in a plan.
        dweight_VD = torch.empty(weight_VD.shape, dtype=weight_VD.dtype, device=weight_VD.device)
        dbias_V = None if bias_V is None else torch.empty_like(bias_V)
        for part, local_N in _parts(len(weight_VD), targets_N):
            bias = None if bias_V is None else bias_V[part]
            given_NC = bodies[1](x_ND, weight_VD[part], bias, local_N, cap, log_z_N, slope_N, hit_N)
            _add_product(dx_ND, given_NC, weight_VD[part].to(x_ND.dtype))
            dweight_VD[part] = given_NC.mT @ x_ND
            if dbias_V is not None:
                dbias_V[part] = given_NC.sum(0, dtype=torch.float32)  # on a CPU this takes a copy in fp32
        return dx_ND.to(x_ND.dtype), dweight_VD, dbias_V, None, None, None


def _add_product(sum_ND: Tensor, given_NC: Tensor, weight_CD: Tensor) -> None:
    for some_RD, given_RC in zip(torch.split(sum_ND, ROWS), torch.split(given_NC, ROWS), strict=True):
        some_RD.add_(given_RC @ weight_CD)


def _parts(pieces: int, targets_N: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Parts of the vocabulary, equally long but for the last one, each with the targets counted from its start."""
    most = max(LEAST, (CUDA_LOGITS if targets_N.is_cuda else LOGITS) // len(targets_N))
    size = -(-pieces // -(-pieces // most))
    for first in range(0, pieces, size):
        yield slice(first, first + size), targets_N - first


def _absorb(
    x_ND: Tensor, weight_CD: Tensor, bias_C: Any, local_N: Tensor, cap: Any, log_z_N: Tensor, found_N: Tensor
) -> tuple[Tensor, Tensor]:
    """log Z with the logits of one more part in it, and the targets' logits with those found there."""
    logits_NC = _logits(x_ND, weight_CD, bias_C, cap)
    index_N = local_N.clamp(0, len(weight_CD) - 1)
    logit_N = logits_NC.gather(1, index_N[:, None]).squeeze(1)
    # Its kernel reads the logits once for the maximum and the sum together.
    part_N = F.cross_entropy(logits_NC, index_N, reduction="none") + logit_N
    return torch.logaddexp(log_z_N, part_N), torch.where(index_N == local_N, logit_N, found_N)


def _gradients(
    x_ND: Tensor,
    weight_CD: Tensor,
    bias_C: Any,
    local_N: Tensor,
    cap: Any,
    log_z_N: Tensor,
    slope_N: Tensor,
    hit_N: Tensor,
) -> Tensor:
    """The gradients of one part's logits, in the dtype of x.

    Each is `slope * probability`, less `hit` where it is the target's.
    """
    logits_NC = _logits(x_ND, weight_CD, bias_C, cap)
    falls_NC = None if cap is None else 1 - (logits_NC / cap).square()
    dlogits_NC = logits_NC.sub_(log_z_N[:, None]).exp_().mul_(slope_N[:, None])
    index_N = local_N.clamp(0, len(weight_CD) - 1)
    dlogits_NC.scatter_add_(1, index_N[:, None], torch.where(index_N == local_N, -hit_N, 0.0)[:, None])
    if falls_NC is not None:
        dlogits_NC.mul_(falls_NC)
    return dlogits_NC.to(x_ND.dtype)


def _logits(x_ND: Tensor, weight_CD: Tensor, bias_C: Tensor | None, cap: float | None) -> Tensor:
    logits_NC = linear(x_ND, weight_CD, bias_C).float()
    return logits_NC if cap is None else logits_NC.div_(cap).tanh_().mul_(cap)

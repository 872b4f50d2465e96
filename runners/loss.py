"""Cross-entropy and z-loss of logits, in fp32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Of what a model puts out and targets: the mean negative log-likelihood, the z-loss, the model's own losses if any.
Loss = Callable[[Any, Tensor], tuple[Tensor, ...]]


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood in nats, and a zero in the place of the z-loss."""
    nll = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())
    return nll, nll.new_zeros(())


def cross_entropy_and_z(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood in nats, and mean(log Z ^ 2), which a small weight keeps near 0.

    Z is the softmax's denominator (PaLM, section 5). Its logarithm is the negative log-likelihood plus the target's
    logit, so one pass over the logits serves both.
    """
    flat, target = logits.float().flatten(0, -2), targets.flatten()
    nll = F.cross_entropy(flat, target, reduction="none")
    log_z = nll + flat.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return nll.mean(), log_z.square().mean()


@torch.no_grad()
def target_logits(outputs: Any, targets: Tensor, cap: float | None = None) -> Tensor:
    """The logits of the targets in fp32, whether a model puts logits out or what a capped head makes them from."""
    if isinstance(outputs, Tensor):
        return outputs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).float()
    hidden, weight, *bias = outputs
    logits = torch.linalg.vecdot(hidden, weight[targets].to(hidden.dtype)).float()
    logits = logits + bias[0][targets] if bias else logits
    return logits if cap is None else cap * torch.tanh(logits / cap)


def loss_for(z_loss: float, compiled: bool) -> Loss:
    """The loss of a run with this weight of the z-loss, compiled or plain."""
    if compiled:
        return torch.compile(_both if z_loss else _first)
    return cross_entropy_and_z if z_loss else cross_entropy


def with_own(loss: Loss) -> Loss:
    """The loss of a model that also puts out, last, the sum of what its nodes add, which comes last here as well."""

    def both(outputs: tuple[Tensor, ...], targets: Tensor) -> tuple[Tensor, ...]:
        return *loss(without_own(outputs), targets), outputs[-1]

    return both


def without_own(outputs: tuple[Tensor, ...]) -> Any:
    """What such a model puts out besides, as one without losses of its own would."""
    *others, _ = outputs
    return tuple(others) if len(others) > 1 else others[0]


def _both(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    nll, log_z = _Tokens.apply(logits.flatten(0, -2), targets.flatten())  # type: ignore[no-untyped-call]
    return nll.mean(), log_z.square().mean()


def _first(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    nll, _ = _Tokens.apply(logits.flatten(0, -2), targets.flatten())  # type: ignore[no-untyped-call]
    return nll.mean(), nll.new_zeros(())


class _Tokens(torch.autograd.Function):
    """Negative log-likelihood and log Z of every token in fp32, from logits [tokens, vocab].

    torch.compile makes of torch's own gradient a comparison of every logit's place with the target, twice; here the
    target's place is written to by itself.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        log_z_N = logits_NV.float().logsumexp(-1)
        logit_N = logits_NV.gather(-1, target_N[:, None]).squeeze(-1).float()
        ctx.save_for_backward(logits_NV, target_N, log_z_N)
        return log_z_N - logit_N, log_z_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll_N: Tensor, d_log_z_N: Tensor) -> tuple[Tensor, None]:
        logits_NV, target_N, log_z_N = ctx.saved_tensors
        slope_N = d_nll_N + d_log_z_N
        gradient_NV = ((logits_NV.float() - log_z_N[:, None]).exp() * slope_N[:, None]).to(logits_NV.dtype)
        logit_N = logits_NV.gather(-1, target_N[:, None]).squeeze(-1).float()
        hit_N = (logit_N - log_z_N).exp() * slope_N - d_nll_N
        return gradient_NV.scatter(-1, target_N[:, None], hit_N.to(logits_NV.dtype)[:, None]), None

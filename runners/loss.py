"""Cross-entropy and z-loss of logits, in fp32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Any, Tensor], tuple[Tensor, Tensor]]  # of what a model puts out, and targets


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
    plain = cross_entropy_and_z if z_loss else cross_entropy
    return torch.compile(plain) if compiled else plain

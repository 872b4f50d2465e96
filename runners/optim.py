"""AdamW with the decay and the learning-rate multiplier that each weight's node asks for."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runners.config import Optim


class Weight(Protocol):
    """What a node says about the optimiser of its parameter."""

    @property
    def decay(self) -> bool:
        """Whether weight decay applies."""

    @property
    def lr(self) -> float:
        """Multiplier of the learning rate."""


def make(model: nn.Module, weights: Mapping[str, Weight], config: Optim) -> torch.optim.AdamW:
    """Fused AdamW over the model's parameters, one group for each pair of decay and multiplier."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((weights[name].decay, weights[name].lr), []).append(parameter)
    settings = [_group(parameters, decay, lr, config) for (decay, lr), parameters in groups.items()]
    beta1, beta2 = config.betas
    return torch.optim.AdamW(settings, betas=(beta1, beta2), eps=config.eps, fused=True)


def _group(parameters: list[nn.Parameter], decay: bool, multiplier: float, config: Optim) -> dict[str, Any]:
    peak = config.lr * multiplier
    weight_decay = config.weight_decay if decay else 0.0
    # AdamW takes lr_t * weight_decay * theta off, and lr_t is s_t * peak; divided by the peak, s_t is what is left.
    if config.decay == "independent" and peak:
        weight_decay /= peak
    return {"params": parameters, "lr": peak, "peak": peak, "weight_decay": weight_decay}


def set_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to this share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def grad_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Global L2 norm of the gradients, in fp32."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip(parameters: Iterable[nn.Parameter], limit: float | None, norm: Tensor) -> None:
    """Scale all gradients so that their global norm is at most `limit`; none or 0 leaves them."""
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)

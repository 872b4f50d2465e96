"""The optimiser, with the decay and the learning-rate multiplier that each weight's node asks for."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.kernels.base import GraphModule, local
from runners.config import Optim
from runners.optimizers.muon import Muon, direction
from runners.optimizers.stable_adamw import StableAdamW
from runners.optimizers.together import Together


class Weight(Protocol):
    """What a node says about the optimiser of its parameter."""

    @property
    def decay(self) -> bool:
        """Whether weight decay applies."""

    @property
    def lr(self) -> float:
        """Multiplier of the learning rate."""

    @property
    def rows(self) -> bool:
        """Whether its rows are vectors of their own."""


def make(
    model: GraphModule, weights: Mapping[str, Weight], config: Optim, compiled: bool = False
) -> torch.optim.Optimizer:
    """The run's optimiser over the model's parameters, one group for each pair of decay and multiplier.

    `compiled` lets it use torch.compile. Raises `SpecError` for Muon without a matrix to move.
    """
    parameters = dict(model.named_parameters())
    beta1, beta2 = config.betas
    moments: dict[str, Any] = {"betas": (beta1, beta2), "eps": config.eps}
    match config.name:
        case "adamw":
            return torch.optim.AdamW(_groups(parameters, weights, config), **moments, fused=True)
        case "stable_adamw":
            groups, coupled = _groups(parameters, weights, config), config.decay == "coupled"
            return StableAdamW(groups, **moments, clips_decay=coupled, compiled=compiled)
        case "muon":
            inner, outer = _split(model, parameters, weights)
            # With this adjustment an update is as long as AdamW's, so that one learning rate fits both.
            muon = Muon(_groups(inner, weights, config), momentum=config.momentum, adjust_lr_fn="match_rms_adamw")
            return Together(muon, torch.optim.AdamW(_groups(outer, weights, config), **moments, fused=True))


def _split(
    model: GraphModule, parameters: dict[str, nn.Parameter], weights: Mapping[str, Weight]
) -> tuple[dict[str, nn.Parameter], ...]:
    """The matrices inside the blocks with the stacks of them that experts have, and all other parameters."""
    inside = {id(p) for block in model.blocks() for p in block.parameters() if p.ndim in (2, 3)}
    inner = {name: p for name, p in parameters.items() if id(p) in inside and not weights[name].rows}
    if not inner:
        message = "muon moves the matrices inside the blocks, but the model has none"
        raise SpecError([Problem(message, Place("optim.name", 0), "adamw moves all parameters")])
    return inner, {name: p for name, p in parameters.items() if name not in inner}


def _groups(parameters: dict[str, nn.Parameter], weights: Mapping[str, Weight], config: Optim) -> list[dict[str, Any]]:
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        found.setdefault((weights[name].decay, weights[name].lr), []).append(parameter)
    return [_group(members, decay, lr, config) for (decay, lr), members in found.items()]


def _group(parameters: list[nn.Parameter], decay: bool, multiplier: float, config: Optim) -> dict[str, Any]:
    peak = config.lr * multiplier
    weight_decay = config.weight_decay if decay else 0.0
    # All take lr_t * weight_decay * theta off, and lr_t is s_t * peak; divided by the peak, s_t is what is left.
    if config.decay == "independent" and peak:
        weight_decay /= peak
    return {"params": parameters, "lr": peak, "peak": peak, "weight_decay": weight_decay}


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """What the last step moved a parameter by, before learning rate and decay; of AdamW m / (sqrt(v) + eps), unbiased.

    Its gradient has to be there still; None where there was none. Of a sharded parameter it is this process's shard.
    """
    group = next(group for group in optimizer.param_groups if any(parameter is p for p in group["params"]))
    state = optimizer.state.get(parameter, {})
    if not state:
        return None
    if "momentum_buffer" in state:
        return direction(parameter, state["momentum_buffer"], group)
    (beta1, beta2), steps = group["betas"], local(state["step"]).double()
    mean, variance = local(state["exp_avg"]) / (1 - beta1**steps), local(state["exp_avg_sq"]) / (1 - beta2**steps)
    adam: Tensor = mean.div_(variance.sqrt_().add_(group["eps"]))
    return adam


def set_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to this share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def grad_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of the gradients, in fp32; of those that are sharded, the shards of this process count."""
    # Not through DTensor, which sends one message for each parameter.
    return nn.utils.get_total_norm([local(p.grad) for p in parameters if p.grad is not None])


def clip(parameters: Iterable[nn.Parameter], limit: float | None, norm: Tensor) -> None:
    """Scale all gradients so that their global norm is at most `limit`; none or 0 leaves them."""
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)

"""AdamW whose learning rate shrinks, tensor by tensor, when gradients outrun their second moment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from blockgraph.kernels.base import local
from runners.optimizers.ratios import Ratio, is_native, means, native_means

SMALLEST = torch.finfo(torch.float32).tiny  # of eps^2; below it a gradient of 0 would be divided by 0
Sharding = tuple[Any, tuple[Any, ...]]


class _Shard(NamedTuple):
    """A parameter's tensors, of each the part that this process holds; `numel` counts the whole."""

    group: dict[str, Any]
    numel: int
    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


class StableAdamW(torch.optim.AdamW):
    """AdamW with update clipping: algorithm 2 of Wortsman et al., arXiv 2304.13013.

    For every tensor RMS = sqrt(mean(g^2 / max(v, eps^2))), where v is the bias-corrected second moment with g already
    in it, and the learning rate of the step is lr / max(1, RMS). The mean is that of the whole tensor, however it is
    sharded: each process sums its own part, and one all-reduce a step adds up the sums of all tensors. Update clipping
    takes the place of clipping the gradient's norm. State and the update itself are those of torch's fused AdamW.

    `clips_decay`: the paper's clipped rate lr_t also multiplies the decay, theta <- theta - lr_t (update + wd theta);
    it stays coupled to what the step really took. False leaves the decay at lr * wd, whatever was clipped: an
    independent decay is one that no learning rate reaches but the schedule's share.

    `compiled` sends means that C++ does not serve through torch.compile. `betas` and `eps` are those of all groups.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        clips_decay: bool = True,
        compiled: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)
        self.betas, self.eps, self.clips_decay = betas, eps, clips_decay
        self._means = torch.compile(means, dynamic=False) if compiled else means

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; nothing waits for the device."""
        for sharding, shards in self._shardings().items():
            torch._foreach_add_([shard.step for shard in shards], 1)
            for shard, share in zip(shards, self._shares(shards, sharding), strict=True):
                self._move(shard, share)

    def _shardings(self) -> dict[Sharding, list[_Shard]]:
        """All shards, by how their parameters are sharded; in a model that is one and the same."""
        found: dict[Sharding, list[_Shard]] = {}
        for group in self.param_groups:
            lists: list[list[Tensor]] = [[], [], [], [], [], []]
            self._init_group(group, *lists)  # type: ignore[no-untyped-call]
            params, grads, exp_avgs, exp_avg_sqs, _, steps = lists
            for param, grad, *state in zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True):
                held = map(local, (param, grad.to(param.dtype), *state))
                found.setdefault(_sharding(param), []).append(_Shard(group, param.numel(), *held))
        return found

    def _shares(self, shards: list[_Shard], sharding: Sharding) -> Sequence[Any]:
        """1 / max(1, RMS) of each tensor: a float on the CPU, and elsewhere a tensor that nobody waits for."""
        beta2 = self.betas[1]
        correction = 1 - beta2 ** torch.stack([shard.step for shard in shards]).double()
        # Both sides of the maximum are taken times the correction, so that the moment stays as it is stored.
        floors = (correction * max(self.eps**2, SMALLEST)).unbind()
        pairs = zip(shards, floors, strict=True)
        ratios = [Ratio(shard.grad, shard.exp_avg_sq, floor, shard.numel) for shard, floor in pairs]
        found = (native_means if is_native(ratios) else self._means)(ratios, beta2)
        shares = (_added(found.double(), sharding) * correction).sqrt().clamp(min=1).reciprocal()
        return shares.tolist() if shares.is_cpu else shares.float().unbind()

    def _move(self, shard: _Shard, share: Any) -> None:
        """One tensor's step of AdamW with this share of its learning rate."""
        lr, decay = shard.group["lr"], shard.group["weight_decay"]
        if not self.clips_decay:
            decay = _unclipped(shard.param, lr, decay, share)
        torch._fused_adamw_(
            [shard.param],
            [shard.grad],
            [shard.exp_avg],
            [shard.exp_avg_sq],
            [],
            [shard.step],
            lr=share * lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


def _unclipped(param: Tensor, lr: float, decay: float, share: Any) -> float:
    """The decay with which a step at `share * lr` takes off lr * decay; what cannot be given so is taken off here."""
    if isinstance(share, float):
        return decay / share
    param.mul_(1 - lr * decay)
    return 0.0


def _sharding(param: Tensor) -> Sharding:
    """The parameter's mesh and its placements there; none of a plain one."""
    return getattr(param, "device_mesh", None), getattr(param, "placements", ())


def _added(parts: Tensor, sharding: Sharding) -> Tensor:
    """Sums over all shards from those of this process's shards, in one all-reduce."""
    mesh, placements = sharding
    if mesh is None:
        return parts
    from torch.distributed.tensor import DTensor, Partial, Replicate  # half a second that only sharded runs pay

    partial = [Partial() if placement.is_shard() else Replicate() for placement in placements]
    return DTensor.from_local(parts, mesh, partial).full_tensor()

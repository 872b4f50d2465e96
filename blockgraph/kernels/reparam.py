"""Reparametrised weights. Axes: E features out, D features in."""

import torch
import torch.nn.functional as F
from torch import Tensor


def spectral_norm(weight_ED: Tensor, u_E: Tensor, v_D: Tensor) -> Tensor:
    """`u W v` in fp32, the largest singular value once u and v have converged; u and v are constants."""
    return torch.dot(u_E.float(), torch.mv(weight_ED.float(), v_D.float()))


def sigma_reparam(weight_ED: Tensor, gamma: Tensor, u_E: Tensor, v_D: Tensor) -> Tensor:
    """`gamma / sigma(W) * W` in fp32 (2410.16682, section 4.1)."""
    return gamma.float() / spectral_norm(weight_ED, u_E, v_D) * weight_ED.float()


def power_iteration(weight_ED: Tensor, u_E: Tensor, v_D: Tensor, steps: int = 1) -> None:
    """Bring u and v nearer to the first singular vectors, in place."""
    weight_ED = weight_ED.float()
    for _ in range(steps):
        v_D.copy_(F.normalize(torch.mv(weight_ED.mT, u_E.float()), dim=0))
        u_E.copy_(F.normalize(torch.mv(weight_ED, v_D.float()), dim=0))

"""Reparametrised weights. Axes: N matrices of a stack, such as experts, where there are several; E out, D in."""

import torch
import torch.nn.functional as F
from torch import Tensor


def spectral_norm(weight_ED: Tensor, u_E: Tensor, v_D: Tensor) -> Tensor:
    """`u W v` in fp32, the largest singular value once u and v have converged; u and v are constants.

    Of a stack of matrices [N, E, D] it is that of each.
    """
    turned_E = mapped(weight_ED.float(), v_D.float())
    return torch.dot(u_E.float(), turned_E) if u_E.dim() == 1 else (u_E.float() * turned_E).sum(-1)


def sigma_reparam(weight_ED: Tensor, gamma: Tensor, u_E: Tensor, v_D: Tensor) -> Tensor:
    """`gamma / sigma(W) * W` in fp32 (2410.16682, section 4.1); a matrix of zeros stays one."""
    sigma = spectral_norm(weight_ED, u_E, v_D)
    factor = gamma.float() / torch.where(sigma != 0, sigma, 1.0)
    return (factor if weight_ED.dim() == 2 else factor[:, None, None]) * weight_ED.float()


def power_iteration(weight_ED: Tensor, u_E: Tensor, v_D: Tensor, steps: int = 1) -> None:
    """Bring u and v nearer to the first singular vectors, in place; for a matrix of zeros they stay."""
    weight_ED = weight_ED.float()
    for _ in range(steps):
        v_D.copy_(turned(mapped(weight_ED.mT, u_E.float()), v_D))
        u_E.copy_(turned(mapped(weight_ED, v_D.float()), u_E))


def mapped(weight_ED: Tensor, x_D: Tensor) -> Tensor:
    """A matrix times a vector, or each of a stack times its own."""
    return torch.mv(weight_ED, x_D) if weight_ED.dim() == 2 else torch.bmm(weight_ED, x_D.unsqueeze(-1)).squeeze(-1)


def turned(x_D: Tensor, before_D: Tensor) -> Tensor:
    """A vector at length 1, or the one before it where it has no direction."""
    return torch.where(x_D.norm(dim=-1, keepdim=True) > 0, F.normalize(x_D, dim=-1), before_D)

"""Several residual streams. Axes: B batch, N streams, M new ones, T tokens, D features."""

import torch
from torch import Tensor


def mix_streams(
    x_BNTD: Tensor, weight_NM: Tensor, dynamic_BNTM: Tensor | None = None, gain: Tensor | None = None
) -> Tensor:
    """M sums of N streams, with weights that are the same for all tokens or made by each; the weights in fp32."""
    batch, _, tokens, width = x_BNTD.shape
    if dynamic_BNTM is None or gain is None:
        mixed = torch.matmul(weight_NM.to(x_BNTD.dtype).mT, x_BNTD.flatten(2))
        return mixed.view(batch, -1, tokens, width)
    weight_BNTM = weight_NM[:, None].float() + gain.float() * torch.tanh(dynamic_BNTM.float())
    weight_BTMN = weight_BNTM.to(x_BNTD.dtype).permute(0, 2, 3, 1)
    return torch.matmul(weight_BTMN, x_BNTD.transpose(1, 2)).transpose(1, 2)


def spread_streams(
    x_BTD: Tensor, weight_N: Tensor, dynamic_BNT1: Tensor | None = None, gain: Tensor | None = None
) -> Tensor:
    """A value times a weight for each stream, and for each token where there are dynamic weights, in fp32."""
    weight = weight_N[:, None, None].float()
    if dynamic_BNT1 is not None and gain is not None:
        weight = weight + gain.float() * torch.tanh(dynamic_BNT1.float())
    return x_BTD.unsqueeze(1) * weight.to(x_BTD.dtype)

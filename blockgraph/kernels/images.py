"""Images as sequences, and tokens in front of them. Axes: B batch, C channels, T tokens, N new tokens, D features."""

import torch
from torch import Tensor


def patches(image: Tensor, side: int) -> Tensor:
    """[batch, channels, height, width] to [batch, patches, channels * side * side], row by row of the image."""
    batch, channels, height, width = image.shape
    split = image.reshape(batch, channels, height // side, side, width // side, side)
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def prepend(x_BTD: Tensor, weight_ND: Tensor) -> Tensor:
    """The same N tokens in front of every sequence, in its dtype."""
    return torch.cat((weight_ND.to(x_BTD.dtype).expand(x_BTD.shape[0], -1, -1), x_BTD), dim=1)

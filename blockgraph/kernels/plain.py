"""Linear maps, norms, gains and gates. Axes: B batch, T tokens, H heads, K features of a head."""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in the dtype of `x`; fp32 master weights are rounded here, and gradients come back fp32."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def learned_positions(x_BTD: Tensor, weight_SD: Tensor, start: int = 0) -> Tensor:
    """T of the S rows of a table added to the tokens, in their dtype; a position of S or more raises `RuntimeError`."""
    return x_BTD + weight_SD.narrow(0, start, x_BTD.shape[-2]).to(x_BTD.dtype)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """Layer normalization over the last axis in fp32, given back in the dtype of `x`."""
    gain = None if weight is None else weight.float()
    return F.layer_norm(x.float(), x.shape[-1:], gain, None if bias is None else bias.float(), eps).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """Root-mean-square normalization over the last axis in fp32, given back in the dtype of `x`."""
    y = F.rms_norm(x.float(), x.shape[-1:], None if weight is None else weight.float(), eps)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def l2_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """The last axis scaled to unit length in fp32, given back in the dtype of `x`."""
    y = F.normalize(x.float(), dim=-1, eps=eps)
    y = y if weight is None else y * weight.float()
    return (y if bias is None else y + bias.float()).to(x.dtype)


def hold_norm(x: Tensor, target: float, *, eps: float, through: bool = True) -> Tensor:
    """The last axis scaled to the RMS `target` in fp32; without `through`, the factor counts as a constant."""
    mean = x.float().square().mean(dim=-1, keepdim=True)
    factor = target * torch.rsqrt((mean if through else mean.detach()) + eps)
    return (x.float() * factor).to(x.dtype)


def head_gain(x_BHTK: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A gain and a bias [heads, K], one for each head, in fp32."""
    y_BHTK = x_BHTK.float()
    y_BHTK = y_BHTK if weight is None else y_BHTK * weight[:, None].float()
    return (y_BHTK if bias is None else y_BHTK + bias[:, None].float()).to(x_BHTK.dtype)


def layer_scale(x: Tensor, weight: Tensor) -> Tensor:
    """`weight * x` in the dtype of `x`."""
    return x * weight.to(x.dtype)


def dynamic_tanh(x: Tensor, weight: Tensor, alpha: Tensor, bias: Tensor | None = None) -> Tensor:
    """`weight * tanh(alpha * x) + bias` in fp32, given back in the dtype of `x`."""
    y = weight.float() * torch.tanh(alpha.float() * x.float())
    return (y if bias is None else y + bias.float()).to(x.dtype)


def sigmoid(x: Tensor, shift: float = 0.0) -> Tensor:
    """`1 / (1 + exp(-(x + shift)))` in fp32, given back in the dtype of `x`."""
    return torch.sigmoid(x.float() + shift).to(x.dtype)


def opened(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """What a head would multiply, for a loss that makes the logits itself."""
    # Views, because FSDP puts a hook on every output at every step, and those on a parameter would stay.
    return x, *(weight.view_as(weight) for weight in weights)

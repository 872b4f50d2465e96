"""Root-mean-square normalization (Zhang and Sennrich, arXiv 1910.07467)."""

from typing import ClassVar

from blockgraph.op import Style
from blockgraph.ops.norm import Norm


class RmsNorm(Norm):
    """`x / sqrt(mean(x**2) + eps) * weight`, in fp32.

    [..., D] -> [..., D]; weight [D], init 1, no weight decay. With `gain: 1+w` the factor is 1 + weight, init 0.
    """

    name: ClassVar = "rms_norm"
    style: ClassVar = Style("norm", "RMS")
    paper: ClassVar = "https://arxiv.org/abs/1910.07467"
    kernel: ClassVar = "rms_norm"
    example: ClassVar = "ln: {op: rms_norm, in: x, gain: 1+w}"

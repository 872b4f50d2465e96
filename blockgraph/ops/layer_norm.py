"""Layer normalization (Ba et al., arXiv 1607.06450)."""

from typing import ClassVar

from blockgraph.op import Style
from blockgraph.ops.norm import Norm


class LayerNorm(Norm):
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight`, in fp32; the paper's LN: gain, no bias, eps 1e-5.

    [..., D] -> [..., D]; weight [D], init 1, no weight decay. On [batch, heads, seq, K] it runs per head, with one gain
    for all heads.
    """

    name: ClassVar = "layer_norm"
    style: ClassVar = Style("norm", "LN")
    paper: ClassVar = "https://arxiv.org/abs/1607.06450"
    kernel: ClassVar = "layer_norm"
    example: ClassVar = "ln: {op: layer_norm, in: x}"

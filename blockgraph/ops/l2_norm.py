"""L2 normalization, as in Henry et al., arXiv 2010.04245."""

from typing import ClassVar

from blockgraph.op import Style
from blockgraph.ops.norm import Norm


class L2Norm(Norm):
    """`x / max(||x||, eps) * weight`, in fp32.

    [..., D] -> [..., D]; weight [D], init 1, no weight decay. Without a gain, queries and keys meet as cosines.
    """

    name: ClassVar = "l2_norm"
    style: ClassVar = Style("norm", "L2")
    paper: ClassVar = "https://arxiv.org/abs/2010.04245"
    kernel: ClassVar = "l2_norm"
    example: ClassVar = "ln_q: {op: l2_norm, in: q, gain: none}"

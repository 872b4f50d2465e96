"""Clipped softmax (2410.16682, section 4.4; Bondarenko et al., arXiv 2306.12929)."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from blockgraph.dims import Number, number_of
from blockgraph.op import NumberField, Op, Site, Style, limited
from blockgraph.types import Type

LENGTHS = (1, 2**20)  # sequence lengths at which a gamma that depends on `seq` is tried


def _not_positive(gamma: Number) -> Number:
    for length in LENGTHS if gamma.free == {"seq"} else ():
        if gamma.at(seq=length) > 0:
            raise ValueError(f"must be at most 0, found {gamma.at(seq=length):g} at seq = {length}")
    return gamma


class SoftClip(Op):
    """`clip((zeta - gamma) * p + gamma, 0, 1)` on softmax weights: exact zeros and ones that pass no gradient.

    [..., S] -> [..., S]. gamma may follow the length, `-12 / seq`.
    """

    name: ClassVar = "soft_clip"
    style: ClassVar = Style("limit", "clip")
    paper: ClassVar = "https://arxiv.org/abs/2306.12929"
    example: ClassVar = """\
mask: {op: causal_mask, in: scores}
softmax: {op: softmax}
clip: {op: soft_clip, zeta: 1.03, gamma: -12 / seq}"""

    zeta: Annotated[NumberField, limited("at least 1", lambda x: x >= 1)] = Field(
        number_of(1.03), description="upper end of the stretched interval"
    )
    gamma: Annotated[NumberField, limited("at most 0", lambda x: x <= 0), AfterValidator(_not_positive)] = Field(
        number_of(-0.03), description="lower end of the stretched interval"
    )

    def infer(self, x: Type) -> Type:
        """The input's type; a gamma of at most zero keeps zero weights at zero."""
        return x

    def lower(self, site: Site, x: str) -> str:
        """A stretch and a clamp."""
        return f"soft_clip({x}, {site.number(self.zeta)}, {site.number(self.gamma)})"

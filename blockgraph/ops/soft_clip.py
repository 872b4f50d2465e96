"""Clipped softmax (2410.16682, section 4.4; Bondarenko et al., arXiv 2306.12929)."""

from typing import Annotated, ClassVar

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.errors import OpError
from blockgraph.fields import NumberField, limited
from blockgraph.op import Op, Site, Style
from blockgraph.probe import Probe, average
from blockgraph.types import Flow, Type


class SoftClip(Op):
    """`clip((zeta - gamma) * p + gamma, 0, 1)` on softmax weights, in fp32: exact zeros and ones pass no gradient.

    [..., S] -> [..., S]. gamma may follow the length, `-12 / seq`. It stands after the softmax.
    """

    name: ClassVar = "soft_clip"
    style: ClassVar = Style("limit", "clip")
    paper: ClassVar = "https://arxiv.org/abs/2306.12929"
    incremental: ClassVar = True
    example: ClassVar = """\
mask: {op: causal_mask, in: scores}
softmax: {op: softmax}
clip: {op: soft_clip, zeta: 1.03, gamma: -12 / seq}"""

    zeta: Annotated[NumberField, limited("at least 1", lambda x: x >= 1)] = Field(
        number_of(1.03), description="upper end of the stretched interval"
    )
    gamma: Annotated[NumberField, limited("at most 0", lambda x: x <= 0)] = Field(
        number_of(-0.03), description="lower end of the stretched interval"
    )

    def infer(self, x: Type) -> Type:
        """The input's type; a gamma of at most zero keeps zero weights at zero."""
        if x.flow is Flow.MASKED:
            raise OpError("clips softmax weights, and these are masked logits; put the clip after the softmax")
        return x.real()

    def lower(self, site: Site, x: str) -> str:
        """A stretch and a clamp."""
        return f"soft_clip({x}, {site.number(self.zeta)}, {site.number(self.gamma)})"

    def probes(self, x: Type) -> tuple[Probe, ...]:
        """How much of it passes no gradient."""
        about = "entries at 0 or 1, of those that the mask lets through"
        entries = "last_rows({out}), {causal}" if x.pairs else "{out}"
        return (average(f"clipped({entries})", "clipped", about),)

"""Softmax capping (2410.16682, section 4.3; Bello et al., arXiv 1611.09940; Gemma 2, arXiv 2408.00118)."""

from typing import ClassVar

from blockgraph.dims import number_of
from blockgraph.errors import OpError
from blockgraph.op import Op, Positive, Site, Style
from blockgraph.types import Flow, Type


class SoftCap(Op):
    """`cap * tanh(x / cap)`, in fp32: keeps logits within plus and minus cap. It stands before the mask."""

    name: ClassVar = "soft_cap"
    style: ClassVar = Style("limit", "cap {cap}")
    paper: ClassVar = "https://arxiv.org/abs/2410.16682"
    example: ClassVar = "cap: {op: soft_cap, in: scores, cap: 50}"

    cap: Positive = number_of(50.0)

    def infer(self, x: Type) -> Type:
        """The input's type; a masked input would leak, because the cap turns minus infinity into minus cap."""
        if x.flow is Flow.MASKED:
            raise OpError(f"a cap after the mask turns -inf into -{self.cap}, so masked keys leak; cap before the mask")
        return x if x.flow is not Flow.WEIGHTS else x.with_flow(Flow.PAIRS)

    def lower(self, site: Site, x: str) -> str:
        """The tanh in fp32."""
        return f"soft_cap({x}, {site.number(self.cap)})"

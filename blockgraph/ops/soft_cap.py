"""Softmax capping (2410.16682, section 4.3; Bello et al., arXiv 1611.09940; arXiv 2408.00118)."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.errors import OpError
from blockgraph.fields import Positive
from blockgraph.op import Op, Site, Style
from blockgraph.probe import Probe, average
from blockgraph.types import Flow, Type


class SoftCap(Op):
    """`cap * tanh(x / cap)`, in fp32: keeps logits within plus and minus cap. [...] -> [...].

    It always stands before the mask, because it turns minus infinity into minus cap.
    """

    name: ClassVar = "soft_cap"
    style: ClassVar = Style("limit", "cap {cap}")
    paper: ClassVar = "https://arxiv.org/abs/2410.16682"
    incremental: ClassVar = True
    example: ClassVar = "cap: {op: soft_cap, in: scores, cap: 50}"

    cap: Positive = Field(number_of(50.0), description="bound on the absolute value of a logit")

    def infer(self, x: Type) -> Type:
        """The input's type; a masked input would leak, because the cap turns minus infinity into minus cap."""
        if x.flow is Flow.MASKED:
            raise OpError(f"a cap after the mask turns -inf into -{self.cap}, so masked keys leak; cap before the mask")
        return x.real()

    def lower(self, site: Site, x: str) -> str:
        """The tanh in fp32."""
        return f"soft_cap({x}, {site.number(self.cap)})"

    def probes(self, x: Type) -> tuple[Probe, ...]:
        """How much of its slope the cap has lost."""
        about = "mean of tanh(x / cap)^2: 0 where the cap does nothing, 1 where no gradient passes"
        entries = "last_rows({out}), {cap}, {causal}" if x.pairs else "{out}, {cap}"
        return (average(f"saturation({entries})", "saturation", about),)

"""An activation held at one RMS, to tell whether its growth is the cause of divergence or a symptom (2410.16682)."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.fields import Epsilon, Positive
from blockgraph.op import Op, Site, Style
from blockgraph.types import Type


class HoldNorm(Op):
    """`target * x / sqrt(mean(x**2) + eps)` over the last axis, in fp32. [..., D] -> [..., D].

    Section 3 of the paper shows that outputs of linears grow as a model diverges, and leaves open whether that is why.
    Held at the RMS of a run that converged, they cannot grow: if it diverges all the same, growth was a symptom. The
    trap is that a gradient through the statistic makes the weight before it scale-free, as any norm does, so its
    learning rate becomes one of angles; `through: false` takes the statistic as a constant and changes the forward pass
    alone.
    """

    name: ClassVar = "hold_norm"
    style: ClassVar = Style("norm", "RMS = {target}")
    paper: ClassVar = "https://arxiv.org/abs/2410.16682"
    incremental: ClassVar = True
    example: ClassVar = "hold: {op: hold_norm, in: x, target: 1}"

    target: Positive = Field(description="the RMS that every token's features are held at")
    through: bool = Field(True, description="whether the gradient passes through the statistic too")
    eps: Epsilon = Field(number_of(1e-12), description="added to the mean square, so that zeros stay zeros")

    def infer(self, x: Type) -> Type:
        """The input's type."""
        return x.mixed()

    def lower(self, site: Site, x: str) -> str:
        """One call of the kernel."""
        through = "" if self.through else ", through=False"
        return f"hold_norm({x}, {site.number(self.target)}, eps={site.number(self.eps)}{through})"

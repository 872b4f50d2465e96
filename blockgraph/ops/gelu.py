"""Gaussian error linear unit (Hendrycks and Gimpel, arXiv 1606.08415)."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.op import Pointwise, Site, Style


class Gelu(Pointwise):
    """`x * Phi(x)`, entry by entry, with Phi the normal distribution function. [...] -> [...].

    With `approximate: tanh` Phi is `(1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3))) / 2`.
    """

    name: ClassVar = "gelu"
    style: ClassVar = Style("activation", "GELU")
    paper: ClassVar = "https://arxiv.org/abs/1606.08415"
    incremental: ClassVar = True
    example: ClassVar = "act: {op: gelu, in: x}"
    keeps_zero: ClassVar = True

    approximate: Literal["none", "tanh"] = Field("none", description="how Phi is computed: exactly, or by a tanh")

    def lower(self, site: Site, x: str) -> str:
        """Plain torch."""
        return f"F.gelu({x})" if self.approximate == "none" else f'F.gelu({x}, approximate="tanh")'

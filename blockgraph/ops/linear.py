"""Linear: the matrix product every block is made of. Axes: D features in, E features out."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.fields import SizeField, constant, normal
from blockgraph.op import MatrixOp, Param, Site, Style
from blockgraph.probe import Probe, gradient, value
from blockgraph.types import Type


class Linear(MatrixOp):
    """`y = x @ weight.T (+ bias)`, in the dtype of `x`; the paper's QKV, Proj, FC1 and FC2 (2410.16682, section 2).

    x [..., D] -> [..., out]; weight [out, D], init normal 0.02, with weight decay. `weight` is a port: written as a
    node or wired from one, the reparametrised weight takes the place of the node's own.
    """

    name: ClassVar = "linear"
    style: ClassVar = Style("linear")
    paper: ClassVar = "https://arxiv.org/abs/2410.16682"
    incremental: ClassVar = True
    rounds: ClassVar = ("weight", "bias")
    example: ClassVar = "qkv: {op: linear, in: x, out: 3 * d_model, init: {normal: 0.02}}"

    out: SizeField = Field(description="features of the output")
    bias: bool = Field(False, description="adds a bias of zeros that is not decayed")

    def infer(self, x: Type) -> Type:
        """Another number of features."""
        return x.mixed().with_last(self.out)

    def flops(self, x: Type) -> Size:
        """Two for every multiply-add."""
        return x.entries * self.out * 2

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The matrix, and the bias if there is one."""
        weight = self.weight("weight", (self.out, x.last), normal(0.02))
        bias = Param("bias", (self.out,), constant(0.0), decay=False, lr=self.lr)
        return (weight, bias) if self.bias else (weight,)

    def lower(self, site: Site, x: str, weight: str, bias: str = "") -> str:
        """`F.linear` with the weight in the activation's dtype."""
        return f"linear({x}, {weight}, {bias})" if bias else f"linear({x}, {weight})"

    def probes(self, x: Type) -> tuple[Probe, ...]:
        """X, Y and their gradients (2410.16682, Tables 1 and 2)."""
        return (
            value("x", "{x}", "the input", "norms", "linears"),
            value("y", "{out}", "the output", "norms", "linears"),
            gradient("dx", "x", "the input, through this node alone", "norms", "linears"),
            gradient("dy", "out", "the output", "linears"),
        )

"""Dynamic tanh (Zhu et al., arXiv 2503.10622), which takes the place of a norm."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size, number_of
from blockgraph.fields import Init, Start, constant
from blockgraph.op import Param, Site, Style, WeightedOp
from blockgraph.types import Type


class DynamicTanh(WeightedOp):
    """`weight * tanh(alpha * x) + bias`, entry by entry, in fp32 (section 4 there).

    [..., D] -> [..., D]; weight [D], init 1; bias [D], init 0, which `bias: false` leaves out; alpha [1], init 0.5.
    None is decayed.
    """

    name: ClassVar = "dynamic_tanh"
    style: ClassVar = Style("norm", "DyT")
    paper: ClassVar = "https://arxiv.org/abs/2503.10622"
    incremental: ClassVar = True
    example: ClassVar = "ln: {op: dynamic_tanh, in: x, alpha: 0.8}"

    alpha: Start = Field(number_of(0.5), description="alpha at step 0")
    bias: bool = Field(True, description="whether a bias is added")

    def infer(self, x: Type) -> Type:
        """The input's type."""
        return x.mixed()

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """Gain, bias if there is one, and the one alpha."""
        gain = self.weight("weight", (x.last,), constant(1.0), decay=False)
        bias = Param("bias", (x.last,), constant(0.0), gain.decay, self.lr)
        # fully_shard refuses 0-d parameters.
        alpha = Param("alpha", (Size.constant(1),), Init("constant", self.alpha), gain.decay, self.lr)
        return (gain, *[bias] * self.bias, alpha)

    def lower(self, site: Site, x: str, weight: str, alpha: str, bias: str = "") -> str:
        """One call of the kernel."""
        return f"dynamic_tanh({', '.join([x, weight, alpha, *[bias] * bool(bias)])})"

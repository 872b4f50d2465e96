"""Linear maps of experts, of which each row takes one. Axes: E experts, C chosen for a token, D features in, O out."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import SizeField, constant, normal
from blockgraph.op import Param, Site, Style, WeightedOp
from blockgraph.types import Flow, Type


class ExpertLinear(WeightedOp):
    """`y = x @ weight[chosen].T (+ bias[chosen])`: every row goes through the matrix of its own expert alone.

    x [..., D], chosen [..., C] -> [..., C, out], each row to all its experts; x [..., C, D], chosen [..., C] ->
    [..., C, out], each row to the one that it was given. weight [experts, out, D], init normal 0.02, with weight decay.
    What experts do between two such maps is written with other ops. Costs are those of the rows there are; an expert
    without rows has a gradient of zeros.
    """

    name: ClassVar = "expert_linear"
    style: ClassVar = Style("linear")
    paper: ClassVar = "https://arxiv.org/abs/1701.06538"
    incremental: ClassVar = True
    rounds: ClassVar = ("weight", "bias")
    example: ClassVar = """\
router: {op: linear, in: x, out: 6}
route: {op: route, top: 2}
up: {op: expert_linear, in: [x, route.chosen], experts: 6, out: d_ff}
down: {op: expert_linear, in: [up, route.chosen], experts: 6, out: d_model}
sum: {op: weighted_sum, in: [down, route.weights]}"""

    experts: SizeField = Field(description="count of the experts, as many as the router tells apart")
    out: SizeField = Field(description="features of the output")
    bias: bool = Field(False, description="adds a bias [experts, out] of zeros that is not decayed")

    def infer(self, x: Type, chosen: Type) -> Type:
        """The features of the experts; causal where rows and choices are."""
        if chosen.kind != "int":
            raise OpError("expects the indices of experts, found real numbers {}", chosen)
        if chosen.sizes not in (x.sizes[:-1], (*x.sizes[:-1], chosen.last)):
            raise OpError("rows and choices do not fit: {} and {}", x, chosen)
        if chosen.below not in (None, self.experts):
            raise OpError("has {} experts, and the router tells {} apart", self.experts, chosen.below)
        past = x.mixed().flow is Flow.PAST and chosen.flow is Flow.PAST
        return Type((*chosen.sizes, self.out), flow=Flow.PAST if past else Flow.ALL)

    def flops(self, x: Type, chosen: Type) -> Size:
        """Two for every multiply-add of a row with its expert."""
        return chosen.entries * x.last * self.out * 2

    def parameters(self, x: Type, chosen: Type) -> tuple[Param, ...]:
        """The matrices, and the biases if there are any."""
        weight = self.weight("weight", (self.experts, self.out, x.last), normal(0.02))
        bias = Param("bias", (self.experts, self.out), constant(0.0), decay=False, lr=self.lr, rows=True)
        return (weight, bias) if self.bias else (weight,)

    def lower(self, site: Site, x: str, chosen: str, weight: str, bias: str = "") -> str:
        """Rows sorted by expert, a product for each, and back."""
        return f"expert_linear({', '.join([x, chosen, weight, *[bias] * bool(bias)])})"

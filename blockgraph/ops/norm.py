"""What the norms share: gain, bias, epsilon and the width that the statistic runs over. K: features of a head."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import Size, number_of
from blockgraph.errors import OpError
from blockgraph.fields import Epsilon, constant
from blockgraph.op import Param, Site, WeightedOp
from blockgraph.types import TOKENS, Flow, Type


class Norm(WeightedOp):
    """A norm over the features, computed in fp32 whatever the activation's dtype; gains start at one, undecayed."""

    kernel: ClassVar[str]
    incremental: ClassVar = True

    gain: Literal["none", "w", "1+w"] = Field("w", description="gain per feature: none, w, or 1 + w starting at w = 0")
    bias: bool = Field(False, description="adds a bias per feature")
    eps: Epsilon = Field(
        number_of(1e-5), description="added to the variance or the mean square; the least length for l2_norm"
    )
    width: Literal["last", "full"] = Field(
        "last", description="statistic over the last axis (per head), or over all heads of [batch, heads, seq, K]"
    )
    shared: bool = Field(True, description="one gain for all heads, or one for each")

    def infer(self, x: Type) -> Type:
        """The input's type."""
        if (self.width == "full" or not self.shared) and len(x.sizes) != 4:
            raise OpError("`width: full` and `shared: false` need heads [batch, heads, seq, K], found {}", x)
        over_tokens = self.width == "full" and not TOKENS.names.isdisjoint(x.sizes[1].names)
        return x.mixed().with_flow(Flow.ALL) if over_tokens else x.mixed()

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """Gain and bias where they are asked for."""
        sizes = self._sizes(x)
        rows = len(sizes) > 1
        gain = self.weight("weight", sizes, constant(0.0 if self.gain == "1+w" else 1.0), decay=False, rows=rows)
        bias = Param("bias", sizes, constant(0.0), gain.decay, self.lr, rows)
        return (gain,) * (self.gain != "none") + (bias,) * self.bias

    def lower(self, site: Site, x: str, weight: str = "", bias: str = "") -> str:
        """One call of the norm's kernel; over all heads it merges them first."""
        tensors = [f"weight={self.feature_gain(weight)}"] * bool(weight) + [f"bias={bias}"] * bool(bias)
        eps = f"eps={site.number(self.eps)}"
        if self.width == "full":
            return f"split_heads({self._call(f'merge_heads({x})', *tensors, eps)}, {x}.shape[1])"
        if not self.shared:
            return f"head_gain({', '.join((self._call(x, eps), *tensors))})"
        return self._call(x, *tensors, eps)

    def feature_gain(self, weight: str = "", **tensors: str) -> str:
        """The weight, or one more than it."""
        return f"1.0 + {weight}.float()" if self.gain == "1+w" else weight

    def _call(self, *arguments: str) -> str:
        return f"{self.kernel}({', '.join(arguments)})"

    def _sizes(self, x: Type) -> tuple[Size, ...]:
        if self.width == "full":
            return (x.sizes[1] * x.last,)
        return (x.last,) if self.shared else (x.sizes[1], x.last)

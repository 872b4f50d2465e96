"""Batched matrix product: the paper's BMM1 and BMM2. Axes: T queries, S keys, K features of a head."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import Finite
from blockgraph.op import Op, Site, Style
from blockgraph.probe import Probe, Quantity
from blockgraph.types import TOKENS, Flow, Type


class Matmul(Op):
    """`scale * a @ b` over the last two axes, with either side transposed (2410.16682, section 2, Figure 1).

    [..., M, K], [..., K, N] -> [..., M, N]; the axes in front must be equal, nothing is broadcast.
    """

    name: ClassVar = "matmul"
    style: ClassVar = Style("matmul")
    paper: ClassVar = "https://arxiv.org/abs/2410.16682"
    incremental: ClassVar = True
    example: ClassVar = "bmm1: {op: matmul, in: [q, k], transpose: b, scale: 1 / sqrt(d_head)}"

    transpose: Literal["a", "b"] | None = Field(None, description="the side whose last two axes are swapped")
    scale: Finite | None = Field(None, description="factor on the product")

    def infer(self, a: Type, b: Type) -> Type:
        """The product's sizes; causal only where no contraction reaches over later tokens."""
        if len(a.sizes) != len(b.sizes) or len(a.sizes) < 2 or a.sizes[:-2] != b.sizes[:-2]:
            raise OpError("sizes differ: {} and {}", a, b)
        rows, inner = self._matrix(a, "a")
        other, columns = self._matrix(b, "b")
        if inner != other:
            raise OpError("inner sizes differ: {} of {} and {} of {}", inner, a, other, b)
        return Type((*a.sizes[:-2], rows, columns), flow=self._flow(a.real(), b.real(), inner, columns))

    def _matrix(self, x: Type, side: str) -> tuple[Size, Size]:
        rows, columns = x.sizes[-2:]
        return (columns, rows) if self.transpose == side else (rows, columns)

    def _flow(self, a: Type, b: Type, inner: Size, columns: Size) -> Flow:
        if inner == TOKENS:
            weighted = a.flow is Flow.WEIGHTS and b.flow is Flow.PAST and self.transpose is None
            return Flow.PAST if weighted else Flow.ALL
        if (a.flow, b.flow) != (Flow.PAST, Flow.PAST):
            return Flow.ALL
        return Flow.PAIRS if columns == TOKENS else Flow.PAST

    def whole(self, a: Type, b: Type) -> tuple[str, ...]:
        """Queries meet all keys, and weights all values."""
        rows, inner = self._matrix(a, "a")
        columns = self._matrix(b, "b")[1]
        return ("b",) if inner == TOKENS or TOKENS == rows == columns else ()

    def flops(self, a: Type, b: Type) -> Size:
        """Two for every multiply-add."""
        return a.entries * self._matrix(b, "b")[1] * 2

    def lower(self, site: Site, a: str, b: str) -> str:
        """`torch.matmul`, then the factor."""
        a = f"{a}.mT" if self.transpose == "a" else a
        b = f"{b}.mT" if self.transpose == "b" else b
        product = f"torch.matmul({a}, {b})"
        return f"{product} * {site.number(self.scale)}" if self.scale else product

    def probes(self, a: Type, b: Type) -> tuple[Probe, ...]:
        """The largest attention logit, where the product is one for each pair of tokens."""
        about = "largest product, of a query with a key that is not after it where the graph is causal"
        largest = Probe(
            "", (Quantity("max", "max", ("attention",), about),), "largest_pair({out}, {causal})", every_query=True
        )
        result = self.infer(a, b)
        return (largest,) if result.pairs and self._matrix(a, "a")[1] != TOKENS else ()

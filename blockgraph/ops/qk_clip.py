"""QK-clip (Kimi K2, arXiv 2507.20534, section 2.1). Axes: B batch, H heads, T queries, S keys, E out, D in."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size, number_of
from blockgraph.errors import OpError
from blockgraph.fields import Multiplier, SizeField, constant
from blockgraph.op import Op, Site, State, Style
from blockgraph.types import Flow, Type


class QkClip(Op):
    """`W_q, W_k <- sqrt(min(1, tau / S)) W_q, W_k` for each head after every step; S is the step's greatest logit.

    logits [batch, heads, seq, seq], weight [parts * heads * K, D] -> the same logits. The forward pass only watches:
    in training, over all micro-batches and ranks, and behind the mask over the keys that a query sees. `weight` is the
    parameter of the linear that makes q and k, its rows parted as `split_heads` does; where q and k have a linear each,
    each gets a node of its own with `parts: 1`. Afterwards no logit of that batch would exceed tau, as long as q and k
    are linear in the weight: without biases, norms or a reparametrisation.
    """

    name: ClassVar = "qk_clip"
    style: ClassVar = Style("limit", "QK clip {tau}")
    paper: ClassVar = "https://arxiv.org/abs/2507.20534"
    incremental: ClassVar = True
    changes: ClassVar = ("weight",)
    example: ClassVar = """\
qkv: {op: linear, in: x, out: 3 * d_model}
heads: {op: split_heads, heads: n_heads, into: [q, k, v]}
bmm1: {op: matmul, in: [heads.q, heads.k], transpose: b, scale: 1 / sqrt(d_head)}
clip: {op: qk_clip, in: [bmm1, qkv.weight], tau: 100}"""

    tau: Multiplier = Field(number_of(100.0), description="bound on a logit")
    parts: SizeField = Field(
        Size.constant(3),
        description="parts of the weight's rows, the first two scaled: 3 [q | k | v], 2 [q | k], 1 either",
    )

    def infer(self, x: Type, weight: Type) -> Type:
        """The logits' type."""
        if len(x.sizes) != 4 or not x.pairs:
            raise OpError("expects logits [batch, heads, seq, seq], found {}", x)
        if x.flow is Flow.WEIGHTS:
            raise OpError("watches logits, and these are weights already; put it before the softmax")
        rows = weight.sizes[0] / (self.parts * x.sizes[1])
        if len(weight.sizes) != 2 or (rows.fraction is not None and rows.known is None):
            raise OpError(
                "expects a weight [parts * heads * K, D] of {} parts and {} heads, found {}",
                self.parts,
                x.sizes[1],
                weight,
            )
        return x.real()

    def states(self, x: Type, weight: Type) -> tuple[State, ...]:
        """The greatest logit of each head since the last step; 0 where all are below."""
        return (State("max_logit", (x.sizes[1],), constant(0.0), measured=True),)

    def lower(self, site: Site, x: str, weight: str, max_logit: str) -> str:
        """The logits, watched in training."""
        return f"watched({x}, {max_logit}, self.training)"

    def on_step(self, site: Site, weight: str, max_logit: str) -> str:
        """The rows of the heads that went too far are scaled."""
        return f"clip_heads({weight}, {max_logit}, {site.number(self.tau)}, {site.size(self.parts)})"

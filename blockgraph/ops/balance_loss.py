"""Loss that keeps the experts of a mixture equally busy. Axes: E experts, C chosen of them."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.fields import Multiplier
from blockgraph.op import LossOp, Site
from blockgraph.types import TOKENS, Type


class BalanceLoss(LossOp):
    """`factor * E * sum over e of f[e] * p[e]`, with f the shares of tokens that go to each expert (2101.03961, eq. 4).

    p are the means of the scores that `route` makes of the logits, and the gradient goes through them alone. f sums to
    `top`, so a balanced router has `factor * top`; where a paper divides by `top`, as DeepSeek's do, write
    `factor: 0.01 / top`, and `factor: 0.01 / n_layers` where it takes the mean over the layers. logits [..., E],
    chosen [..., C] -> [], in fp32.

    `within: tokens` takes shares and means over all tokens that a forward pass sees, which is a micro-batch of one
    process, so the value depends on how a batch is split. `within: sequence` takes the mean of the losses of the
    sequences (2412.19437, eq. 17 to 20), which does not.
    """

    name: ClassVar = "balance_loss"
    paper: ClassVar = "https://arxiv.org/abs/2101.03961"
    example: ClassVar = """\
router: {op: linear, in: x, out: 6}
route: {op: route, top: 2}
balance: {op: balance_loss, in: [router, route.chosen], factor: 0.01}"""

    factor: Multiplier = Field(description="weight of the loss")
    scores: Literal["softmax", "sigmoid"] = Field("softmax", description="what the logits are made into; shares of 1")
    within: Literal["tokens", "sequence"] = Field("tokens", description="what shares and means are taken over")

    def infer(self, logits: Type, chosen: Type) -> Type:
        """One number, from the logits of a router and the choice that was made by them."""
        if logits.kind == "int" or chosen.kind != "int" or logits.sizes[:-1] != chosen.sizes[:-1]:
            raise OpError("expects logits [..., E] and chosen experts [..., C], found {} and {}", logits, chosen)
        if chosen.below not in (None, logits.last):
            raise OpError("reads {}, and the choice is among {} experts", logits, chosen.below)
        if self.within == "sequence" and (len(logits.sizes) < 2 or logits.sizes[-2] != TOKENS):
            raise OpError("takes shares within a sequence, and {} has no axis for tokens before its last", logits)
        return self.loss()

    def lower(self, site: Site, logits: str, chosen: str) -> str:
        """Two means and their product."""
        words = ["sigmoid=True"] * (self.scores == "sigmoid") + ["each=True"] * (self.within == "sequence")
        return f"balance_loss({', '.join([logits, chosen, *words])}) * {site.number(self.factor)}"

"""Routing: which experts each token goes to, and with which weights. Axes: E experts, C chosen of them."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.errors import OpError
from blockgraph.fields import Positive, SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import Type


class Route(Op):
    """`chosen = top(logits)`, `weights = scale * softmax(logits[chosen])`: the experts of each token (1701.06538).

    logits [..., E] -> chosen [..., top], as indices, and weights [..., top], in fp32 inside and in the logits' dtype
    outside. `over: all` takes the softmax over all experts before some are chosen, so the weights sum to less than one.
    With `groups`, experts are in so many groups of neighbours, and only those in the `top_groups` with the greatest
    logit can be chosen (DeepSeek-V2, 2405.04434, section 2.2.2). Every token is routed by itself, so nothing leaks, and
    no expert drops tokens. No gradient goes through the choice.
    """

    name: ClassVar = "route"
    style: ClassVar = Style("softmax", "top")
    paper: ClassVar = "https://arxiv.org/abs/1701.06538"
    outputs: ClassVar = ("chosen", "weights")
    example: ClassVar = """\
router: {op: linear, in: x, out: 6}
route: {op: route, top: 2}"""

    top: SizeField = Field(description="experts of a token")
    over: Literal["chosen", "all"] = Field("chosen", description="the experts among whom the softmax shares out")
    scale: Positive = Field(number_of(1.0), description="factor on the weights")
    groups: SizeField | None = Field(None, description="groups that the experts form, in their order")
    top_groups: SizeField | None = Field(None, description="groups from which a token's experts come")

    def infer(self, logits: Type) -> dict[str, Type]:
        """Indices and weights for each token, from its own logits alone."""
        experts, top = logits.last.known, self.top.known or 0
        if experts is None or top > experts:
            raise OpError("chooses {} of the last axis, found {}", self.top, logits)
        if (self.groups is None) != (self.top_groups is None):
            raise OpError("groups and top_groups belong together, found one of them")
        if self.groups is not None and self.top_groups is not None:
            groups, open_ = self.groups.known or 1, self.top_groups.known or 1
            if experts % groups or open_ > groups or top > open_ * (experts // groups):
                raise OpError(
                    "{} of {} groups of {} experts do not hold {}", self.top_groups, self.groups, logits.last, self.top
                )
        weights = logits.mixed().with_last(self.top)
        return {"chosen": Type(weights.sizes, "int", weights.flow), "weights": weights}

    def lower(self, site: Site, logits: str) -> str:
        """`topk`, a gather and a softmax."""
        words = ["over_all=True"] * (self.over == "all")
        words += [f"scale={site.number(self.scale)}"] * ("scale" in self.model_fields_set)
        if self.groups is not None and self.top_groups is not None:
            words.append(f"groups=({site.size(self.groups)}, {site.size(self.top_groups)})")
        return f"route({', '.join([logits, site.size(self.top), *words])})"

    def label(self) -> str:
        """How many are chosen."""
        return f"top {self.top.known}"

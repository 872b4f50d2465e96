"""Routing: which experts each token goes to, and with which weights. Axes: E experts, C chosen of them."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import Size, number_of
from blockgraph.errors import OpError
from blockgraph.fields import Multiplier, Positive, SizeField, constant
from blockgraph.op import Op, Site, State, Style
from blockgraph.probe import Probe, Quantity
from blockgraph.types import Type

ONE = Size.constant(1)


class Route(Op):
    """`chosen = top(s + bias)`, `weights = scale * s[chosen] / sum(s[chosen])`, s = softmax(logits) (1701.06538).

    logits [..., E] -> chosen [..., top], as indices, and weights [..., top], in fp32 inside and in the logits' dtype
    outside. `over: all` leaves the sum out, so softmax weights sum to less than one. With `groups`, experts are in so
    many groups of neighbours, and only those in the `top_groups` with the greatest scores can be chosen, of which
    `group_scores` are added up for a group (DeepSeek-V2, 2405.04434, section 2.2.2; V3, 2412.19437). Every token is
    routed by itself, so nothing leaks, and no expert drops tokens. No gradient goes through the choice.

    With `balance`, each expert has a bias that counts in the choice alone and starts at 0; after every optimiser step
    it goes up by so much where the expert had less than the mean of the step's tokens, and else down (2408.15664).
    """

    name: ClassVar = "route"
    style: ClassVar = Style("softmax", "top")
    paper: ClassVar = "https://arxiv.org/abs/1701.06538"
    incremental: ClassVar = True
    outputs: ClassVar = ("chosen", "weights")
    example: ClassVar = """\
router: {op: linear, in: x, out: 6}
route: {op: route, top: 2}"""

    top: SizeField = Field(description="experts of a token")
    scores: Literal["softmax", "sigmoid"] = Field("softmax", description="what the logits are made into")
    over: Literal["chosen", "all"] = Field("chosen", description="the experts among whom weights are shared out")
    scale: Positive = Field(number_of(1.0), description="factor on the weights")
    groups: SizeField | None = Field(None, description="groups that the experts form, in their order")
    top_groups: SizeField | None = Field(None, description="groups from which a token's experts come")
    group_scores: SizeField = Field(ONE, description="greatest scores of a group that are its own")
    balance: Multiplier | None = Field(None, description="step of the biases that keep loads alike; no bias without")

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
                told = "{} of {} groups of {} experts do not hold {}"
                raise OpError(told, self.top_groups, self.groups, logits.last, self.top)
            if (self.group_scores.known or 1) > experts // groups:
                raise OpError("{} scores of a group, which has {}", self.group_scores, logits.last / self.groups)
        weights = logits.mixed().with_last(self.top)
        return {"chosen": Type(weights.sizes, "int", weights.flow, logits.last), "weights": weights}

    def states(self, logits: Type) -> tuple[State, ...]:
        """The bias of each expert, and the tokens that a step has sent there."""
        if self.balance is None:
            return ()
        bias = State("bias", (logits.last,), constant(0.0), free=True)
        return bias, State("load", (logits.last,), constant(0.0), measured=True, total=True)

    def lower(self, site: Site, logits: str, bias: str = "", load: str = "") -> str:
        """`topk`, a gather and a sum."""
        words = ["sigmoid=True"] * (self.scores == "sigmoid")
        words += ["over_all=True"] * (self.over == "all")
        words += [f"scale={site.number(self.scale)}"] * ("scale" in self.model_fields_set)
        if self.groups is not None and self.top_groups is not None:
            sizes = (self.groups, self.top_groups, self.group_scores)
            words.append(f"groups=({', '.join(map(site.size, sizes))})")
        if bias:
            words += [f"bias_E={bias}", f"load_E={load} if self.training else None"]
        return f"route({', '.join([logits, site.size(self.top), *words])})"

    def probes(self, logits: Type) -> tuple[Probe, ...]:
        """The share of the tokens that goes to each expert; all together as many as are chosen."""
        return tuple(map(_share, range(logits.last.known or 0)))

    def on_step(self, site: Site, bias: str = "", load: str = "") -> str:
        """The biases of experts with much to do go down, the others' up."""
        return f"balance_experts({bias}, {load}, {site.number(self.balance)})" if self.balance else ""

    def label(self) -> str:
        """How many are chosen."""
        return f"top {self.top.known}"


def _share(expert: int) -> Probe:
    quantity = Quantity(str(expert), "mean", ("experts",), f"share of the tokens that go to expert {expert}", "share")
    return Probe("load", (quantity,), f"moments(({{out}} == {expert}).any(-1).float())")

"""Causal mask, with an optional sliding window and within documents. Axes: T queries, S keys."""

from typing import ClassVar

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.fields import SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import TOKENS, Flow, Type


class CausalMask(Op):
    """`x[t, s] if t - window < s <= t else -inf`: query t sees key s when it is not later, and not too far back.

    Scores [..., seq, seq] -> [..., seq, seq]; it stands after every cap and before the softmax. Where `documents`
    [batch, seq] is wired, the number of the document that each token stands in, a query sees the keys of its own alone.
    A run gives the numbers to a model that has an input of that name. RoPE is relative, so its angles between the
    tokens of a document do not depend on where in the sequence the document begins.
    """

    name: ClassVar = "causal_mask"
    style: ClassVar = Style("mask", "mask")
    incremental: ClassVar = True
    example: ClassVar = "mask: {op: causal_mask, in: scores}"

    window: SizeField | None = Field(
        None, description="how many tokens a query sees, itself included; all earlier ones when left out"
    )

    def label(self) -> str:
        """How far it lets a query see."""
        return f"mask, window {self.window.known}" if self.window else "mask"

    def infer(self, x: Type, documents: Type | None = None) -> Type:
        """Scores in which no later key remains, and none of another document."""
        if not x.pairs:
            raise OpError("expects scores [..., seq, seq], found {}", x)
        if x.flow is Flow.WEIGHTS:
            raise OpError("masks logits, and these are weights already; put the mask before the softmax")
        if documents and (documents.kind != "int" or documents.sizes != (x.sizes[0], TOKENS) or len(x.sizes) < 3):
            raise OpError(
                "expects documents [batch, seq] for scores [batch, ..., seq, seq], found {} and {}", documents, x
            )
        return x.real().with_flow(Flow.MASKED if x.flow in (Flow.PAIRS, Flow.MASKED) else Flow.ALL)

    def whole(self, x: Type, documents: Type | None = None) -> tuple[str, ...]:
        """A query compares its document with those of all keys."""
        return ("documents",) if documents else ()

    def lower(self, site: Site, x: str, documents: str = "") -> str:
        """`masked_fill` with minus infinity."""
        window = f", {site.size(self.window)}" if self.window else ""
        return f"causal_mask({x}{window}{f', documents={documents}' if documents else ''})"

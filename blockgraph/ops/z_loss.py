"""Loss that keeps the denominator of a softmax near one."""

from typing import ClassVar

from pydantic import Field

from blockgraph.fields import Multiplier
from blockgraph.op import LossOp, Site
from blockgraph.types import Type


class ZLoss(LossOp):
    """`factor * mean(log(sum(exp(x)))^2)` with sums over the last axis, as of a router's logits (2202.08906, eq. 5).

    [..., E] -> [], in fp32. It is a mean over tokens, so it does not depend on how a batch is split.
    """

    name: ClassVar = "z_loss"
    paper: ClassVar = "https://arxiv.org/abs/2202.08906"
    example: ClassVar = """\
router: {op: linear, in: x, out: 6}
z: {op: z_loss, factor: 0.001}"""

    factor: Multiplier = Field(description="weight of the loss")

    def infer(self, x: Type) -> Type:
        """One number."""
        x.real()
        return self.loss()

    def lower(self, site: Site, x: str) -> str:
        """`torch.logsumexp` in fp32."""
        return f"z_loss({x}) * {site.number(self.factor)}"

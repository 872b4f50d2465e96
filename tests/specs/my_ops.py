"""Ops of a user: linear biases on the logits, and a learned temperature."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from blockgraph.dims import Size
from blockgraph.fields import Positive, constant
from blockgraph.op import Op, Param, Site, Style, WeightedOp
from blockgraph.types import Type

STEEPEST = 0.5


class Alibi(Op):
    """`x[h, t, s] - slope[h] * (t - s)` with the slopes `0.5**h * steepness` (Press et al., arXiv 2108.12409).

    Logits [batch, heads, seq, seq] -> [batch, heads, seq, seq].
    """

    name: ClassVar = "alibi"
    style: ClassVar = Style("position", "ALiBi")
    paper: ClassVar = "https://arxiv.org/abs/2108.12409"
    example: ClassVar = "alibi: {op: alibi, in: scores}"

    steepness: Positive = Field(description="factor on all slopes")

    def infer(self, x: Type) -> Type:
        """The input's type."""
        return x

    def lower(self, site: Site, x: str) -> str:
        """A call of the function below."""
        return f"alibi({x}, {site.number(self.steepness)})"


class Temperature(WeightedOp):
    """`x * t`, with one learned t for all heads. [...] -> [...]."""

    name: ClassVar = "temperature"
    style: ClassVar = Style("limit", "learned temp")
    example: ClassVar = "temp: {op: temperature, in: scores}"

    def infer(self, x: Type) -> Type:
        """The input's type."""
        return x

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The temperature, a vector of one."""
        return (self.weight("weight", (Size.constant(1),), constant(1.0), decay=False),)

    def lower(self, site: Site, x: str, weight: str) -> str:
        """One multiplication."""
        return f"{x} * {weight}.to({x}.dtype)"


def alibi(x_BHTS: Tensor, steepness: float) -> Tensor:
    """The logits less a distance, steeper for the first heads."""
    _, heads, queries, keys = x_BHTS.shape
    return x_BHTS - slopes(heads, x_BHTS)[:, None, None] * steepness * distances(queries, keys, x_BHTS)


def slopes(heads: int, like: Tensor) -> Tensor:
    return STEEPEST ** torch.arange(1, heads + 1, device=like.device, dtype=like.dtype)


def distances(queries: int, keys: int, like: Tensor) -> Tensor:
    position = torch.arange(queries, device=like.device)[:, None] - torch.arange(keys, device=like.device)
    return position.to(like.dtype)

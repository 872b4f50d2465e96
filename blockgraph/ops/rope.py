"""Rotary position embedding (Su et al., arXiv 2104.09864)."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.errors import OpError
from blockgraph.fields import Positive, SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import Type


class Rope(Op):
    """Rotates pairs (a, b) of features by `t * base**(-2i/K)`: `(a cos - b sin, a sin + b cos)`, in fp32.

    [..., seq, K] -> [..., seq, K]; t is the position from 0 on, i counts the pairs. `half` pairs the first half with
    the second, `interleaved` pairs neighbours. `factor` slows every pair, as if positions were that much closer; with
    `length`, pairs that turn `fast` times or more in so many tokens keep their pace, and between `slow` and `fast` it
    changes in step with the turns (arXiv 2407.21783) or with the index of the pair (YaRN, arXiv 2309.00071).
    """

    name: ClassVar = "rope"
    style: ClassVar = Style("position", "RoPE")
    paper: ClassVar = "https://arxiv.org/abs/2104.09864"
    incremental: ClassVar = True
    keeps_length: ClassVar = True
    example: ClassVar = "rope_q: {op: rope, in: q, base: 10000}"

    base: Positive = Field(number_of(10000.0), description="the longest wavelength is 2 pi times about this")
    pairs: Literal["half", "interleaved"] = Field("half", description="which features form a pair")
    width: SizeField | None = Field(None, description="rotate only the first so many features; all when left out")

    factor: Positive = Field(number_of(1.0), description="slows the rotation, for longer texts than trained on")
    length: SizeField | None = Field(
        None, description="tokens of the texts trained on; then fast pairs keep their pace"
    )
    slow: Positive = Field(number_of(1.0), description="turns in `length` up to which the whole factor counts")
    fast: Positive = Field(number_of(4.0), description="turns in `length` from which on it does not")
    ramp: Literal["turns", "pairs", "whole_pairs"] = Field(
        "turns", description="what it changes in step with: turns, or pairs, from and to a whole one or in between"
    )

    def infer(self, x: Type) -> Type:
        """The input's type; the rotated width has to be even."""
        if len(x.sizes) < 3 or not x.sizes[-2].unbound - {"batch"}:
            raise OpError("expects [..., seq, features], found {}", x)
        width = self.width or x.last
        if width.known is not None and width.known % 2:
            raise OpError(f"rotates pairs of features, so their number is even; {{}} is {width.known}", width)
        if width.known is not None and width.known > (x.last.known or width.known):
            raise OpError("rotates {} features, more than the {} that there are", width, x.last)
        if self.slow.value is not None and self.fast.value is not None and self.slow.value >= self.fast.value:
            raise OpError(f"slow has to be less than fast, found {self.slow} and {self.fast}")
        if self.ramp != "turns" and self.base.value is None:
            raise OpError(f"ramp: {self.ramp} needs one base for all layers and lengths, found {self.base}")
        return x.mixed()

    def lower(self, site: Site, x: str) -> str:
        """The rotation; angles are made from the positions, so nothing has to be stored."""
        width = f", width={site.size(self.width)}" if self.width else ""
        pairs = ", interleaved=True" if self.pairs == "interleaved" else ""
        start = f", start={site.start()}" if site.start() else ""
        return f"rope({x}, {site.number(self.base)}{width}{pairs}{self._slowed(site)}{start})"

    def _slowed(self, site: Site) -> str:
        factor = f", factor={site.number(self.factor)}" if "factor" in self.model_fields_set else ""
        if self.length is None:
            return factor
        turns = ", ".join((f"{site.size(self.length)}.0", site.number(self.slow), site.number(self.fast)))
        ramp = "" if self.ramp == "turns" else f', ramp="{self.ramp}"'
        return f"{factor}, turns=({turns}){ramp}"

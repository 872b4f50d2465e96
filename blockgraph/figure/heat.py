"""Colours of boxes by numbers: what a run measured at each node, on a figure of the graph that it trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from blockgraph.figure.picture import Item, Picture
from blockgraph.figure.style import PAPER

LIGHT, DARK = (0xFF, 0xF6, 0xE3), (0xE8, 0x74, 0x3B)  # ends of the scale, which grey tells apart too


@dataclass(frozen=True, slots=True)
class Measured:
    """A number for nodes by their paths (`attn.qkv`, in a model `layers.attn.qkv`), and in words what it is.

    `low` and `high` are the ends of the scale, which is logarithmic where both are above 0.
    """

    values: Mapping[str, float]
    words: str
    low: float
    high: float

    @property
    def told(self) -> str:
        """The line of the figure that says what its colours mean."""
        return f"{self.words}; colours from {self.low:.3g} (light) to {self.high:.3g} (dark)"

    def colour(self, value: float) -> str:
        """The colour of a number; one that is not finite stands at the dark end."""
        share = self._share(value) if math.isfinite(value) else 1.0
        parts = (round(a + share * (b - a)) for a, b in zip(LIGHT, DARK, strict=True))
        return "#" + "".join(f"{part:02X}" for part in parts)

    def _share(self, value: float) -> float:
        """Where a number lies between the ends, from 0 to 1."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if low > 0:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low) if high > low else 0.0


def heated(drawn: Picture, measured: Measured) -> Picture:
    """The picture with every measured box in its colour, its number below its label; all others are white."""
    return replace(drawn, items={slot: _item(item, measured) for slot, item in drawn.items.items()})


def _item(item: Item, measured: Measured) -> Item:
    value = measured.values.get(item.slot.replace("/", "."))
    if value is None:
        return replace(item, tint=PAPER)
    return replace(item, tint=measured.colour(value), sub=f"{value:.3g}")

"""A stack of layers: blocks one after the other, with named values carried from each to the next."""

import re
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from blockgraph.dims import Size
from blockgraph.fields import SizeField
from blockgraph.op import Op, Style

MAX_LAYERS = 10_000


class Stack(Op):
    """`for block in layers: carried |= block(carried)`.

    Each block reads its inputs by name from the carried values, and its outputs replace the values of the same name,
    so a value that one layer gives (the first layer's `v`) stays with all later ones. `of` is one block or a pattern
    that repeats; `at` gives single layers another block, counted from 0, or from -1 at the end. Inside, `layer` and
    `n_layers` are known. Carried values -> carried values, whatever their shapes. The blocks' modules are `NAME.0`,
    `NAME.1`, ...; of parameters that `share` names, the state dict holds one tensor under the name of every layer.
    """

    name: ClassVar = "stack"
    style: ClassVar = Style("stack", "{of}")
    example: ClassVar = "layers: {op: stack, in: x, of: [baseline, qk_norm], repeat: 4, at: {0: baseline}}"

    of: str | list[str] = Field(description="a block or a slot, or several that take turns")
    repeat: SizeField = Field(description="count of the layers")
    at: dict[str, str] = Field({}, description="blocks of single layers, by index")
    share: list[str] = Field([], description="nodes and groups of the block whose parameters all layers share")

    @field_validator("repeat")
    @classmethod
    def _bounded(cls, repeat: Size) -> Size:
        assert repeat.known is not None
        if repeat.known > MAX_LAYERS:
            raise ValueError(f"a stack has at most {MAX_LAYERS} layers, found {repeat.known}")
        return repeat

    @field_validator("of")
    @classmethod
    def _some(cls, of: str | list[str]) -> str | list[str]:
        if not of:
            raise ValueError("a pattern names at least one block")
        return of

    @field_validator("at")
    @classmethod
    def _indices(cls, at: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        count = info.data["repeat"].known if "repeat" in info.data else MAX_LAYERS
        for key in at:
            if not re.fullmatch("-?[0-9]+", key):
                raise ValueError(f"a layer is given by its index, found '{key}'")
            if not -count <= int(key) < count:
                raise ValueError(f"layers are 0 to {count - 1}, or -1 to -{count} from the end, found {key}")
        if len({int(key) % count for key in at}) < len(at):
            raise ValueError(f"{', '.join(at)} name one layer twice")
        return at

    def layers(self) -> tuple[str, ...]:
        """The block of every layer, by name."""
        pattern = [self.of] if isinstance(self.of, str) else self.of
        count = self.repeat.known or 0
        names = [pattern[index % len(pattern)] for index in range(count)]
        for key, block in self.at.items():
            names[int(key)] = block
        return tuple(names)

    def sharing(self) -> tuple[str, ...]:
        """Paths in the blocks whose parameters all layers share."""
        return tuple(self.share)

    def label(self) -> str:
        """The block, or the pattern."""
        return self.of if isinstance(self.of, str) else " · ".join(self.of)

"""A stack of layers: blocks one after the other, with named values carried from each to the next."""

from typing import ClassVar

from pydantic import Field, field_validator

from blockgraph.op import Op, SizeField, Style

MAX_LAYERS = 10_000


class Stack(Op):
    """`for block in layers: carried |= block(carried)`.

    Each block reads its inputs by name from the carried values, and its outputs replace the values of the same name,
    so a value that one layer gives (the first layer's `v`) stays with all later ones. `of` is one block or a pattern
    that repeats; `at` gives single layers another block, counted from 0, or from -1 at the end. Inside, `layer` and
    `n_layers` are known. The blocks' modules are `NAME.0`, `NAME.1`, ...
    """

    name: ClassVar = "stack"
    style: ClassVar = Style("stack", "{of}")
    example: ClassVar = "layers: {op: stack, in: x, of: [baseline, qk_norm], repeat: 4, at: {0: baseline}}"

    of: str | list[str]
    repeat: SizeField
    at: dict[str, str] = Field({}, description="blocks of single layers, by index")
    share: list[str] = Field([], description="paths in the block whose parameters all layers share")

    @field_validator("repeat")
    @classmethod
    def _bounded(cls, repeat: SizeField) -> SizeField:
        if repeat.known is None or repeat.known > MAX_LAYERS:
            raise ValueError(f"a stack has at most {MAX_LAYERS} layers, found {repeat}")
        return repeat

    def layers(self) -> tuple[str, ...]:
        """The block of every layer, by name."""
        pattern = [self.of] if isinstance(self.of, str) else self.of
        count = self.repeat.known or 0
        names = [pattern[index % len(pattern)] for index in range(count)]
        for key, block in self.at.items():
            names[int(key)] = block
        return tuple(names)

    @field_validator("of")
    @classmethod
    def _some(cls, of: str | list[str]) -> str | list[str]:
        if not of:
            raise ValueError("a pattern names at least one block")
        return of

    @field_validator("at")
    @classmethod
    def _indices(cls, at: dict[str, str]) -> dict[str, str]:
        for key in at:
            if not key.lstrip("-").isdigit():
                raise ValueError(f"a layer is given by its index, found '{key}'")
        return at

    def label(self) -> str:
        """The block, or the pattern."""
        return self.of if isinstance(self.of, str) else " · ".join(self.of)

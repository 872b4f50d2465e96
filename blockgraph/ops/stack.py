"""A stack of layers: blocks one after the other, with named values carried from each to the next."""

import re
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from blockgraph.dims import LAYER, Dims, Size
from blockgraph.fields import SizeField
from blockgraph.op import Op, Style

MAX_LAYERS = 10_000


class Stack(Op):
    """`for block in layers: carried |= block(carried)`.

    Each block reads its inputs by name from the carried values, and its outputs replace the values of the same name,
    so a value that one layer gives (the first layer's `v`) stays with all later ones. `of` is one block or a pattern
    that repeats; `at` gives single layers another block, counted from 0, or from -1 at the end, or those from one up to
    another, as `2:4`, `:n_layers / 2` or `-3:`. Inside, `layer` and `n_layers` are known. A value that `index` names is
    carried apart for each number that its expression gives in a layer: with `skip: min(layer, n_layers - 1 - layer)`
    the last layer reads the `skip` that the first one gives, as in a U-net. Carried values -> carried values, whatever
    their shapes. The blocks' modules are `NAME.0`, `NAME.1`, ...; of parameters that `share` names, the state dict
    holds one tensor under the name of every layer.
    """

    name: ClassVar = "stack"
    style: ClassVar = Style("stack", "{of}")
    example: ClassVar = "layers: {op: stack, in: x, of: [baseline, qk_norm], repeat: 4, at: {0: baseline}}"

    of: str | list[str] = Field(description="a block or a slot, or several that take turns")
    repeat: SizeField = Field(description="count of the layers")
    at: dict[str, str] = Field({}, description="blocks of single layers, by index")
    share: list[str] = Field([], description="nodes and groups of the block whose parameters all layers share")

    index: dict[str, list[int]] = Field(
        {},
        description="values carried apart, with a number for each in every layer",
        json_schema_extra={"type": "object", "additionalProperties": {"type": ["number", "string"]}},
    )

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
        """Every layer by its own index."""
        assert info.context is not None
        count = info.data["repeat"].known if "repeat" in info.data else MAX_LAYERS
        dims = within(info.context["dims"], count)
        named = [(index, block) for key, block in at.items() for index in _layers_of(key, count, dims)]
        if len({index % count for index, _ in named}) < len(named):
            raise ValueError(f"{', '.join(at)} name one layer twice")
        return {str(index): block for index, block in named}

    @field_validator("index", mode="before")
    @classmethod
    def _numbers(cls, index: Any, info: ValidationInfo) -> Any:
        """The number of every layer, by name."""
        if not isinstance(index, dict) or "repeat" not in info.data:
            return index if not isinstance(index, dict) else {}
        assert info.context is not None
        count = info.data["repeat"].known
        dims = within(info.context["dims"], count)
        return {name: [_whole(text, dims, layer) for layer in range(count)] for name, text in index.items()}

    def layers(self) -> tuple[str, ...]:
        """The block of every layer, by name."""
        pattern = [self.of] if isinstance(self.of, str) else self.of
        count = self.repeat.known or 0
        names = [pattern[index % len(pattern)] for index in range(count)]
        for key, block in self.at.items():
            names[int(key)] = block
        return tuple(names)

    def carried(self, name: str, layer: int) -> str:
        """The name itself, or with the number that it has in this layer."""
        return f"{name}[{self.index[name][layer]}]" if name in self.index else name

    def apart(self) -> tuple[str, ...]:
        """Names of the values that have a number of their own in each layer."""
        return tuple(self.index)

    def sharing(self) -> tuple[str, ...]:
        """Paths in the blocks whose parameters all layers share."""
        return tuple(self.share)

    def label(self) -> str:
        """The block, or the pattern."""
        return self.of if isinstance(self.of, str) else " · ".join(self.of)


def within(dims: Dims, layers: int) -> Dims:
    """The dims as they are inside a stack."""
    return replace(dims, sizes={**dims.sizes, "n_layers": Size.symbol("n_layers", layers)}, layered=True)


def _layers_of(key: str, count: int, dims: Dims) -> list[int]:
    """The layers that a key of `at` names."""
    first, colon, end = key.partition(":")
    if colon:
        bounds = (_whole(first, dims) if first else None, _whole(end, dims) if end.strip() else None)
        found = list(range(count))[slice(*bounds)]
        if not found:
            raise ValueError(f"'{key}' names no layer of {count}")
        return found
    if not re.fullmatch("-?[0-9]+", key):
        raise ValueError(f"a layer is given by its index, found '{key}'")
    if not -count <= int(key) < count:
        raise ValueError(f"layers are 0 to {count - 1}, or -1 to -{count} from the end, found {key}")
    return [int(key)]


def _whole(text: str | int, dims: Dims, layer: int = 0) -> int:
    number = dims.number(text)
    if number.free - {LAYER}:
        raise ValueError(f"is '{text}', and {' and '.join(sorted(number.free - {LAYER}))} is known only at run time")
    value = number.at(layer=layer) if number.free else number.at()
    if value != int(value):
        raise ValueError(f"'{text}' is {value:g} in layer {layer}, not a whole number")
    return int(value)

"""The contract of an op: its fields, shape rule, cost, parameters, torch text, figure style and documentation."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from blockgraph.dims import LAYER, Number, Size, number_of
from blockgraph.schema import Fields
from blockgraph.types import Flow, Type

Role = Literal[
    "norm", "linear", "matmul", "softmax", "limit", "mask", "activation", "position", "reshape",
    "residual", "scale", "weight", "embedding", "stack",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """How a figure shows an op: its role chooses colour and shape, the label is a template over the fields.

    An empty label shows the node's own name (`qkv` as QKV); `hidden` ops are drawn as part of their edge.
    """

    role: Role
    label: str = ""
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Init:
    """Initial values of a parameter: a named distribution and its one number."""

    kind: Literal["normal", "trunc_normal", "uniform", "constant", "unit"]
    number: Number


@dataclass(frozen=True, slots=True)
class Param:
    """A trained tensor that a node owns; `decay` and `lr` are its group in the optimiser."""

    name: str
    sizes: tuple[Size, ...]
    init: Init
    decay: bool = True
    lr: Number = number_of(1.0)


@dataclass(frozen=True, slots=True)
class State:
    """A tensor in fp32 that a node keeps and the optimiser does not train, such as a power iteration's vectors."""

    name: str
    sizes: tuple[Size, ...]
    init: Init


class Site(Protocol):
    """What lowering tells an op about the place its text will stand in."""

    def number(self, number: Number) -> str:
        """Python text of a number: a float literal, or an expression where it depends on `layer` or `seq`."""

    def size(self, size: Size) -> str:
        """Python text of a size: an int literal, or an expression over the input's shape."""


def _size(value: Any, info: ValidationInfo) -> Size:
    return info.context["dims"].size(value)  # type: ignore[index,no-any-return]


def _number(value: Any, info: ValidationInfo) -> Number:
    return info.context["dims"].number(value)  # type: ignore[index,no-any-return]


def _init(value: Any, info: ValidationInfo) -> Init:
    """`zeros`, `ones`, a number, or a distribution such as `{normal: 0.02}`."""
    words = {"zeros": 0.0, "ones": 1.0}
    if isinstance(value, str) and value in words:
        return Init("constant", number_of(words[value]))
    if not isinstance(value, dict):
        return Init("constant", _number(value, info))
    kinds = ("normal", "trunc_normal", "uniform", "constant")
    if len(value) != 1 or next(iter(value)) not in kinds:
        raise ValueError(f"an initial value is zeros, ones, a number or one of {', '.join(kinds)} with its number")
    ((kind, number),) = value.items()
    return Init(kind, _number(number, info))


SizeField = Annotated[Size, BeforeValidator(_size)]
NumberField = Annotated[Number, BeforeValidator(_number)]
InitField = Annotated[Init, BeforeValidator(_init)]


def limited(rule: str, holds: Any) -> AfterValidator:
    """A rule that a number has to meet, on every layer where it depends on the layer."""

    def validate(number: Number, info: ValidationInfo) -> Number:
        for value in _values(number, info.context["dims"]):  # type: ignore[index]
            if not (math.isfinite(value) and holds(value)):
                raise ValueError(f"must be finite and {rule}, found {value:g}")
        return number

    return AfterValidator(validate)


def _values(number: Number, dims: Any) -> list[float]:
    if number.value is not None:
        return [number.value]
    layers = dims.sizes.get("n_layers")
    if number.free != {LAYER} or layers is None or layers.known is None:
        return []
    return [number.at(layer=layer) for layer in range(layers.known)]


Positive = Annotated[Number, BeforeValidator(_number), limited("positive", lambda x: x > 0)]
Finite = Annotated[Number, BeforeValidator(_number), limited("a number", lambda x: True)]


class Op(Fields):
    """One kind of node. A subclass is the whole of it: fields, shape rule, cost, parameters, torch text, style."""

    name: ClassVar[str]
    style: ClassVar[Style]
    paper: ClassVar[str] = ""
    example: ClassVar[str]
    weights: ClassVar[tuple[str, ...]] = ()  # parameters that a spec may wire from elsewhere
    outputs: ClassVar[tuple[str, ...]] = ("out",)

    def infer(self, *inputs: Any) -> Type | dict[str, Type]:
        """Types of the outputs from the types of the inputs; its argument names are the op's ports.

        Raises `OpError` when the inputs do not fit.
        """
        raise NotImplementedError(type(self).name)

    def flops(self, *inputs: Type) -> Size:
        """Matrix-product FLOPs of the forward pass, 2 for each multiply-add; other arithmetic counts as 0."""
        return Size.constant(0)

    def parameters(self, *inputs: Type) -> tuple[Param, ...]:
        """Parameters the node owns unless they are wired from elsewhere."""
        return ()

    def states(self, *inputs: Type) -> tuple[State, ...]:
        """Tensors in fp32 that the node keeps between steps."""
        return ()

    def lower(self, site: Site, **values: str) -> str:
        """A Python expression in plain torch; `values` are the texts of ports, parameters and states by name."""
        raise NotImplementedError(type(self).name)

    def on_init(self, site: Site, **values: str) -> str:
        """A statement to run once when parameters have their initial values; empty for none."""
        return ""

    def on_step(self, site: Site, **values: str) -> str:
        """A statement to run after every optimiser step, outside autograd; empty for none."""
        return ""

    def ports_out(self) -> tuple[str, ...]:
        """Names of the outputs; an op with one output calls it `out`."""
        return self.outputs

    def layers(self) -> tuple[str, ...]:
        """Names of the blocks this op runs one after the other; empty for an op that holds none."""
        return ()

    @classmethod
    def ports(cls) -> tuple[str, ...]:
        """Names of the inputs, read from the shape rule."""
        return _ports(cls)[0]

    @classmethod
    def variadic(cls) -> bool:
        """Whether the op reads any number of inputs."""
        return _ports(cls)[1]

    def label(self) -> str:
        """The figure's label, filled from the fields; empty where the node's own name is shown."""
        return self.style.label.format_map({key: getattr(self, key) for key in type(self).model_fields})


@cache
def _ports(op: type[Op]) -> tuple[tuple[str, ...], bool]:
    parameters = [p for p in inspect.signature(op.infer).parameters.values() if p.name != "self"]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return tuple(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL), variadic


class WeightedOp(Op):
    """An op that owns a weight: how it starts and how the optimiser treats it belong to the node."""

    init: InitField | None = Field(None, description="initial values: zeros, ones, a number or {normal: std}")
    decay: bool | None = Field(None, description="whether weight decay applies")
    lr: Positive = Field(number_of(1.0), description="multiplier of the learning rate")

    def weight(self, name: str, sizes: tuple[Size, ...], init: Init, decay: bool = True) -> Param:
        """A parameter with this node's own choices put over the op's defaults."""
        return Param(name, sizes, self.init or init, decay if self.decay is None else self.decay, self.lr)


class Pointwise(Op):
    """An op that maps every entry alone and leaves the shape as it is."""

    keeps_zero: ClassVar[bool] = False

    def infer(self, x: Type) -> Type:
        """The input's type; weights that are zero ahead of the token stay so only where zero maps to zero."""
        kept = x.flow in (Flow.PAST, Flow.PAIRS, Flow.ALL) or (x.flow is Flow.WEIGHTS and self.keeps_zero)
        return x if kept else x.with_flow(Flow.PAIRS)


def normal(std: float) -> Init:
    """Normal values with mean 0."""
    return Init("normal", number_of(std))


def constant(value: float) -> Init:
    """One value everywhere."""
    return Init("constant", number_of(value))


def table(ops: tuple[type[Op], ...]) -> Mapping[str, type[Op]]:
    """Ops by name, in the order of the documentation."""
    return {op.name: op for op in ops}

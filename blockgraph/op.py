"""The contract of an op: its fields, shape rule, cost, parameters, torch text, figure style and documentation."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from blockgraph.dims import Number, Size
from blockgraph.fields import ONE, Init, InitField, Multiplier
from blockgraph.probe import VALUE, Probe, Quantity
from blockgraph.schema import Fields
from blockgraph.types import Flow, Type

Role = Literal[
    "norm", "linear", "matmul", "softmax", "limit", "mask", "activation", "position", "reshape",
    "residual", "scale", "weight", "embedding", "stack", "loss",
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
class Param:
    """A trained tensor that a node owns; `decay` and `lr` are its group in the optimiser.

    One of several axes maps vectors, as the weight of a linear does, unless its `rows` are vectors of their own.
    """

    name: str
    sizes: tuple[Size, ...]
    init: Init
    decay: bool = True
    lr: Number = ONE
    rows: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """A tensor in fp32 that a node keeps and the optimiser does not train, such as a power iteration's vectors.

    One that is `measured` holds the greatest values that the forward passes of a step have written there, or what they
    have added up where it is a `total`, of all ranks once the step's actions read it; after them it has its initial
    value again, so checkpoints do not hold it. One that is `free` is changed by the actions from measured ones alone;
    others from the values of the node's inputs, which then have to come from parameters.
    """

    name: str
    sizes: tuple[Size, ...]
    init: Init
    measured: bool = False
    total: bool = False
    free: bool = False

    @property
    def renewed(self) -> bool:
        """Whether actions set it from the values of the node's inputs."""
        return not (self.measured or self.free)


class Site(Protocol):
    """What lowering tells an op about the place its text will stand in."""

    def number(self, number: Number) -> str:
        """Python text of a number: a float literal, or an expression where it depends on `layer` or `seq`."""

    def size(self, size: Size) -> str:
        """Python text of a size: an int literal."""

    def start(self) -> str:
        """Python text of the position of the first token that is read; empty where it is 0."""


class Op(Fields):
    """One kind of node. A subclass is the whole of it: fields, shape rule, cost, parameters, torch text, style."""

    name: ClassVar[str]
    style: ClassVar[Style]
    paper: ClassVar[str] = ""
    example: ClassVar[str] = ""
    weights: ClassVar[tuple[str, ...]] = ()  # parameters that a spec may wire from elsewhere
    of_weight: ClassVar[tuple[str, ...]] = ()  # fields that mean nothing once the first of those is wired
    of_all: ClassVar[tuple[str, ...]] = ()  # fields that mean nothing once no parameter is left
    rounds: ClassVar[tuple[str, ...]] = ()  # parameters that are read in the dtype of the activation alone
    changes: ClassVar[tuple[str, ...]] = ()  # ports whose value is a parameter that the actions change
    outputs: ClassVar[tuple[str, ...]] = ("out",)
    keeps_length: ClassVar[bool] = False  # of each vector on the last axis, as a rotation does
    incremental: ClassVar[bool] = False  # new tokens' rows follow from their rows of the inputs and `whole` ports
    adds: ClassVar[bool] = False  # its value is one number of the loss of a run, and nothing has to read it
    copies: ClassVar[bool] = False  # every entry is one of the input's, so a cache may stand before the op

    def infer(self, *inputs: Any) -> Type | dict[str, Type]:
        """Types of the outputs from the types of the inputs; its argument names are the op's ports.

        A port whose argument has a default may be left unwired. Raises `OpError` when the inputs do not fit.
        """
        raise NotImplementedError(type(self).name)

    def flops(self, *inputs: Any) -> Size:
        """Matrix-product FLOPs of the forward pass, 2 for each multiply-add; other arithmetic counts as 0."""
        return Size.constant(0)

    def parameters(self, *inputs: Any) -> tuple[Param, ...]:
        """Parameters the node owns unless they are wired from elsewhere."""
        return ()

    def states(self, *inputs: Any) -> tuple[State, ...]:
        """Tensors in fp32 that the node keeps between steps."""
        return ()

    # Any, so that each op can name its own ports, parameters and states in its signature.
    def lower(self, site: Site, *ports: Any, **tensors: Any) -> str:
        """A Python expression in plain torch, from the texts of ports in order, parameters and states by name."""
        raise NotImplementedError(type(self).name)

    def on_init(self, site: Site, *ports: Any, **tensors: Any) -> str:
        """Statements to run once when parameters have their initial values, a line each; `ports` is empty."""
        return ""

    def on_step(self, site: Site, *ports: Any, **tensors: Any) -> str:
        """Statements to run after every optimiser step, outside autograd, a line each; `ports` is empty."""
        return ""

    def probes(self, *inputs: Any) -> tuple[Probe, ...]:
        """What a run can record of a node, from the types of its inputs."""
        return ()

    # Any, as in `lower`.
    def feature_gain(self, **tensors: Any) -> str:
        """Text of the factor that each feature of the output has been multiplied by; empty where there is none."""
        return ""

    def whole(self, *inputs: Any) -> tuple[str, ...]:
        """Ports of which the rows of new tokens read all tokens up to the last, so that earlier ones are cached.

        Raises `OpError` where these inputs do not let rows of new tokens be computed alone.
        """
        return ()

    def longest(self) -> Size | None:
        """Tokens of the longest sequence that the op takes; None where there is no bound."""
        return None

    def ports_out(self) -> tuple[str, ...]:
        """Names of the outputs; an op with one output calls it `out`."""
        return self.outputs

    def layers(self) -> tuple[str, ...]:
        """Names of the blocks this op runs one after the other; empty for an op that holds none."""
        return ()

    def carried(self, name: str, layer: int) -> str:
        """What a value of a layer's block is called among the values that the layers carry on."""
        return name

    def apart(self) -> tuple[str, ...]:
        """Names of the values of those blocks that are carried under another name in some layer."""
        return ()

    def sharing(self) -> tuple[str, ...]:
        """Paths in those blocks whose parameters all layers share."""
        return ()

    def numbers(self) -> dict[str, Number]:
        """The fields that are numbers, by name."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in fields.items() if isinstance(value, Number)}

    @classmethod
    def ports(cls) -> tuple[str, ...]:
        """Names of the inputs, read from the shape rule."""
        return tuple(parameter.name for parameter in _signature(cls) if parameter.kind is not parameter.VAR_POSITIONAL)

    @classmethod
    def required(cls) -> tuple[str, ...]:
        """Names of the inputs that have to be wired; they come first."""
        return tuple(
            parameter.name
            for parameter in _signature(cls)
            if parameter.name in cls.ports() and parameter.default is parameter.empty
        )

    @classmethod
    def grows(cls) -> bool:
        """Whether the class with the op's torch text is `incremental`, and says so itself or through one derived."""
        kinds = list(cls.__mro__)
        text = next(index for index, kind in enumerate(kinds) if "lower" in vars(kind))
        return cls.incremental and any("incremental" in vars(kind) for kind in kinds[: text + 1])

    @classmethod
    def variadic(cls) -> bool:
        """Whether the op reads any number of inputs."""
        return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in _signature(cls))

    def label(self) -> str:
        """The figure's label, filled from the fields; empty where the node's own name is shown."""
        return self.style.label.format_map({key: _shown(getattr(self, key)) for key in type(self).model_fields})


def _shown(value: object) -> object:
    """A field as a figure shows it: a formula as it is written, but a dim that it names by its value."""
    if isinstance(value, Number) and value.value is not None and value.text.isidentifier():
        return f"{value.value:g}"
    return value


@cache
def _signature(op: type[Op]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(op.infer).parameters.values())[1:]


class WeightedOp(Op):
    """An op that owns a weight: how it starts and how the optimiser treats it belong to the node."""

    weights: ClassVar[tuple[str, ...]] = ("weight",)
    of_weight: ClassVar[tuple[str, ...]] = ("init",)
    of_all: ClassVar = ("decay", "lr")

    init: InitField | None = Field(
        None,
        description="initial values: zeros, ones, a number, or {normal: std}, {trunc_normal: std}, {uniform: bound}, "
        "{identity: factor}, {one_hot: row}",
    )
    decay: bool | None = Field(None, description="whether weight decay applies")
    lr: Multiplier = Field(ONE, description="multiplier of the learning rate")

    def weight(self, name: str, sizes: tuple[Size, ...], init: Init, decay: bool = True, rows: bool = False) -> Param:
        """A parameter with this node's own choices put over the op's defaults."""
        return Param(name, sizes, self.init or init, decay if self.decay is None else self.decay, self.lr, rows)


class MatrixOp(WeightedOp):
    """An op whose weight is a matrix [out, in], which may be kept on unit rows or columns."""

    of_weight: ClassVar = (*WeightedOp.of_weight, "after_step")

    after_step: Literal["unit_rows", "unit_columns"] | None = Field(
        None, description="unit_rows or unit_columns: scaled to length 1 at the start and after every optimiser step"
    )

    def on_init(self, site: Site, *ports: Any, **tensors: Any) -> str:
        """Unit rows or columns from the start."""
        return self.on_step(site, **tensors)

    def on_step(self, site: Site, *ports: Any, **tensors: Any) -> str:
        """Back to unit rows or columns."""
        if self.after_step is None:
            return ""
        axis = 1 if self.after_step == "unit_rows" else 0
        return f"assign({tensors['weight']}, F.normalize(full({tensors['weight']}), dim={axis}))"


class LossOp(Op):
    """An op whose value is added to the loss of a run, weighted as it is; elsewhere it is not computed."""

    style: ClassVar = Style("loss")
    adds: ClassVar = True

    def loss(self) -> Type:
        """The type of one number that all tokens have a part in."""
        return Type((), flow=Flow.ALL)

    def probes(self, *inputs: Any) -> tuple[Probe, ...]:
        """The number itself."""
        return (Probe("", (Quantity("value", "mean", ("experts",), "what is added to the loss", "nats"),), VALUE),)


class Pointwise(Op):
    """An op that maps every entry alone and leaves the shape as it is."""

    keeps_zero: ClassVar[bool] = False
    masks_to_zero: ClassVar[bool] = False

    def infer(self, x: Type) -> Type:
        """The input's type; entries ahead of the token stay out only where zero, or minus infinity, maps to zero."""
        if x.flow is Flow.MASKED and self.masks_to_zero:
            return x.real().with_flow(Flow.WEIGHTS)
        kept = x.flow in (Flow.PAST, Flow.PAIRS, Flow.ALL) or (x.flow is Flow.WEIGHTS and self.keeps_zero)
        return x.real() if kept else x.real().with_flow(Flow.PAIRS)


def table(ops: tuple[type[Op], ...]) -> Mapping[str, type[Op]]:
    """Ops by name, in the order of the documentation."""
    return {op.name: op for op in ops}

"""Two residual streams.

Compiled by blockgraph from the model streams, digest 8394ef2030ed8def. Change the spec, not this file.

Sizes: vocab = 61, n_layers = 5, d_model = 32.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Weight:
    """A declared tensor: shape, initial values, and for a parameter its group in the optimiser.

    One whose `rows` are vectors of their own, such as the biases of experts, maps nothing, for all its axes.
    A `measured` one holds the greatest values that the forward passes of a step have written there, or a `total`.
    """

    shape: tuple[int, ...]
    init: str
    number: float
    decay: bool = True
    lr: float = 1.0
    rows: bool = False
    trained: bool = True
    measured: bool = False
    total: bool = False


def initial_value(seed: int, name: str, weight: Weight) -> Tensor:
    """Initial values in fp32 on the CPU; they depend on the seed and the full name alone."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    value = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
    match weight.init:
        case "normal":
            return value.normal_(0.0, weight.number, generator=draw)
        case "trunc_normal":
            bound = 2.0 * weight.number
            return nn.init.trunc_normal_(value, 0.0, weight.number, -bound, bound, generator=draw)
        case "uniform":
            return value.uniform_(-weight.number, weight.number, generator=draw)
        case "unit":
            return nn.functional.normalize(value.normal_(generator=draw), dim=-1)
        case "identity":
            return torch.eye(weight.shape[0], value[0].numel()).mul_(weight.number).view_as(value)
        case "one_hot":  # the row of this index is ones, counted round
            value.zero_()[int(weight.number) % weight.shape[0]] = 1.0
            return value
    return value.fill_(weight.number)


class Parameters(nn.Module):
    """A node's or a group's place in the tree of modules; it holds tensors and does nothing."""

    def extra_repr(self) -> str:
        """Names and shapes of the tensors held here."""
        held = [*self._parameters.items(), *self._buffers.items()]
        return ", ".join(f"{name} {list(value.shape)}" for name, value in held if value is not None)


WRAPPERS = ("_checkpoint_wrapped_module", "_orig_mod")  # names that torch puts between ours


def placed(value: Tensor, like: Any) -> Tensor:
    """A full value, which is equal on all ranks, sharded as another tensor is."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def assign(x: Tensor, value: Tensor) -> None:
    """Set a tensor, or this rank's shard of it, from the full value, which is equal on all ranks."""
    x.copy_(placed(value, x))


def take_together(tensors: list[Tensor], total: bool) -> None:
    """Set every entry to the greatest that it is on any rank, or to the sum over the ranks, in one message."""
    if tensors and dist.is_available() and dist.is_initialized():
        packed = torch.cat([x.flatten() for x in tensors])
        dist.all_reduce(packed, dist.ReduceOp.SUM if total else dist.ReduceOp.MAX)
        for x, value in zip(tensors, torch.split(packed, [x.numel() for x in tensors]), strict=True):
            x.copy_(value.view_as(x))


class GraphModule(nn.Module):
    """A compiled graph: declares its tensors by path, starts them by name, acts after the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Weight] = {}
        self._constants: dict[str, float] = {}
        self._dtype: torch.dtype | None = None

    def declare(self, path: str, shape: tuple[int, ...], init: str, number: float, **group: Any) -> None:
        """Make the parameter, or the fp32 buffer when it is not trained, at this module path."""
        self.table[path] = weight = Weight(shape, init, number, **group)
        place, name = self._place(path)
        value = torch.empty(shape, dtype=torch.float32)
        if weight.trained:
            place.register_parameter(name, nn.Parameter(value))
        else:
            place.register_buffer(name, value, persistent=not weight.measured)

    def declare_constant(self, path: str, value: float) -> None:
        """Make a number that differs between layers, a 0-d buffer outside the state dict, at `constants.PATH`."""
        # A float attribute would make torch.compile compile the block a second time.
        self._constants[path] = value
        place, name = self._place(f"constants.{path}")
        place.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def declare_layers(self, path: str, layers: list["GraphModule"], share: tuple[str, ...] = ()) -> None:
        """Put layers at this module path; all use the first one's module at each path of `share`."""
        for inner in share:
            for layer in layers[1:]:
                place, name = layer._place(inner)
                setattr(place, name, layers[0].get_submodule(inner))
                layer.table = {key: weight for key, weight in layer.table.items() if not key.startswith(f"{inner}.")}
        place, name = self._place(path)
        setattr(place, name, nn.ModuleList(layers))

    def _place(self, path: str) -> tuple[nn.Module, str]:
        """The module that holds a path's last name, made where it is missing."""
        *parents, name = path.split(".")
        place: nn.Module = self
        for parent in parents:
            if not hasattr(place, parent):
                setattr(place, parent, Parameters())
            place = getattr(place, parent)
        return place, name

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """The dtype that embeddings give to the activations; None leaves the parameters' own."""
        return self._dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        for _, graph in self.graphs():
            graph._dtype = dtype

    def cast(self, x: Tensor) -> Tensor:
        """An activation in the compute dtype."""
        return x if self._dtype is None else x.to(self._dtype)

    def graphs(self) -> Iterator[tuple[str, "GraphModule"]]:
        """This graph and those inside it, each with the prefix of its names."""
        for path, module in self.named_modules():
            if isinstance(module, GraphModule):
                yield "".join(f"{name}." for name in path.split(".") if name and name not in WRAPPERS), module

    def blocks(self) -> list["GraphModule"]:
        """The layers in the order they run, without the layers inside them."""
        found: dict[str, GraphModule] = {}
        for prefix, graph in self.graphs():
            if graph is not self and not prefix.startswith(tuple(found)):
                found[prefix] = graph
        return list(found.values())

    @property
    def weights(self) -> dict[str, Weight]:
        """Every parameter by its full name, with its shape and its group in the optimiser."""
        tables = ((prefix, graph.table) for prefix, graph in self.graphs())
        return {prefix + name: weight for prefix, table in tables for name, weight in table.items() if weight.trained}

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Set every parameter and buffer to its initial value."""
        for prefix, graph in self.graphs():
            for path, weight in graph.table.items():
                place, name = graph._place(path)
                assign(getattr(place, name), initial_value(seed, prefix + path, weight))
        for _, graph in self.graphs():
            graph.finish_init()

    @torch.no_grad()
    def after_step(self) -> None:
        """What the nodes do after each optimiser step, such as a power iteration; what was measured counts once."""
        for total in (False, True):
            take_together([x for x, weight in self._measured() if weight.total == total], total)
        for _, graph in self.graphs():
            graph.finish_step()
        self.forget()

    @torch.no_grad()
    def forget(self) -> None:
        """Drop what forward passes have measured, as when their step is not taken."""
        for x, weight in self._measured():
            x.fill_(weight.number)

    def _measured(self) -> list[tuple[Tensor, Weight]]:
        """The tensors that forward passes write to."""
        found = [(graph._place(path), weight) for _, graph in self.graphs() for path, weight in graph.table.items()]
        return [(getattr(place, name), weight) for (place, name), weight in found if weight.measured]

    def finish_init(self) -> None:
        """This graph's own actions once its parameters have their initial values."""

    def finish_step(self) -> None:
        """This graph's own actions after an optimiser step."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GraphModule":
        """What moves or casts tensors; `to_empty` wipes buffers, so the constants are set again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for path, value in self._constants.items():
            place, name = self._place(f"constants.{path}")
            getattr(place, name).fill_(value)
        return self


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in the dtype of `x`; fp32 master weights are rounded here, and gradients come back fp32."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class Left(GraphModule):
    """left: x from y."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.declare("fc.weight", (32, 32), "normal", 0.02)
        self.declare_constant("scale.by", 1.0 / math.sqrt(layer + 1.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        fc = linear(y, self.fc.weight)  # streams.yaml:19
        scale = fc * self.constants.scale.by  # streams.yaml:20
        add = x + scale  # streams.yaml:21
        return add


class Right(GraphModule):
    """right: y from x."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.declare("fc.weight", (32, 32), "normal", 0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        fc = linear(x, self.fc.weight)  # streams.yaml:29
        act = F.silu(fc)  # streams.yaml:30
        add = y + act  # streams.yaml:31
        return add


class Swap(GraphModule):
    """swap."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.declare("fc.weight", (32, 32), "normal", 0.02)

    def forward(self, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        fc = linear(x, self.fc.weight)  # streams.yaml:38
        up = y + fc  # streams.yaml:39
        return up, x


class Streams(GraphModule):
    """streams: Two residual streams."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.declare("embed.weight", (61, 32), "normal", 0.02)
        self.declare_layers("layers", [kind(layer) for layer, kind in enumerate([Left, Right] * 2 + [Swap])])
        self.declare("head.weight", (61, 32), "normal", 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        embed = self.cast(F.embedding(tokens, self.embed.weight))  # streams.yaml:7
        layers_x = embed
        layers_y = embed
        for layer in range(0, 4, 2):  # streams.yaml:8
            layers_x = self.layers[layer](layers_x, layers_y)
            layers_y = self.layers[layer + 1](layers_x, layers_y)
        layers_x, layers_y = self.layers[4](layers_y, layers_x)  # streams.yaml:8
        both = layers_x + layers_y  # streams.yaml:9
        head = linear(both, self.head.weight)  # streams.yaml:10
        return head


def build(seed: int | None = 0) -> Streams:
    """The module with its initial values, which `seed` and each parameter's name decide; None leaves them unset."""
    module = Streams()
    if seed is not None:
        module.initialize(seed)
    return module

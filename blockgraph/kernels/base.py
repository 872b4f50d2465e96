"""The class that every compiled graph derives from, with the initial values of its parameters."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Weight:
    """A declared tensor: shape, initial values, and for a parameter its group in the optimiser."""

    shape: tuple[int, ...]
    init: str
    number: float
    decay: bool = True
    lr: float = 1.0
    trained: bool = True


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
            return nn.functional.normalize(value.normal_(generator=draw), dim=0)
    return value.fill_(weight.number)


class Parameters(nn.Module):
    """A node's or a group's place in the tree of modules; it holds tensors and does nothing."""

    def extra_repr(self) -> str:
        """Names and shapes of the tensors held here."""
        held = [*self._parameters.items(), *self._buffers.items()]
        return ", ".join(f"{name} {list(value.shape)}" for name, value in held if value is not None)


class GraphModule(nn.Module):
    """A compiled graph: declares its tensors by path, starts them by name, acts after the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Weight] = {}
        self._dtype: torch.dtype | None = None

    def declare(self, path: str, shape: tuple[int, ...], init: str, number: float, **group: bool | float) -> None:
        """Make the parameter, or the fp32 buffer when it is not trained, at this module path."""
        *parents, name = path.split(".")
        place: nn.Module = self
        for parent in parents:
            if not hasattr(place, parent):
                setattr(place, parent, Parameters())
            place = getattr(place, parent)
        self.table[path] = weight = Weight(shape, init, number, **group)  # type: ignore[arg-type]
        value = torch.empty(shape, dtype=torch.float32)
        if weight.trained:
            place.register_parameter(name, nn.Parameter(value))
        else:
            place.register_buffer(name, value)

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
        for name, module in self.named_modules():
            if isinstance(module, GraphModule):
                name = name.replace("_checkpoint_wrapped_module", "").replace("_orig_mod", "").replace("..", ".")
                yield f"{name.strip('.')}.".lstrip("."), module

    def blocks(self) -> list["GraphModule"]:
        """The layers in the order they run."""
        inside = [module for _, module in self.graphs() if module is not self]
        nested = {id(deeper) for module in inside for _, deeper in module.graphs() if deeper is not module}
        return [module for module in inside if id(module) not in nested]

    @property
    def weights(self) -> dict[str, Weight]:
        """Every parameter by its full name, with its shape and its group in the optimiser."""
        tables = ((prefix, graph.table) for prefix, graph in self.graphs())
        return {prefix + name: weight for prefix, table in tables for name, weight in table.items() if weight.trained}

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Set every parameter and buffer to its initial value."""
        for prefix, graph in self.graphs():
            state = graph.state_dict(keep_vars=True)
            for name, weight in graph.table.items():
                state[name].copy_(initial_value(seed, prefix + name, weight))
        for _, graph in self.graphs():
            graph.finish_init()

    @torch.no_grad()
    def after_step(self) -> None:
        """What the nodes do after each optimiser step, such as a power iteration."""
        for _, graph in self.graphs():
            graph.finish_step()

    def finish_init(self) -> None:
        """This graph's own actions once its parameters have their initial values."""

    def finish_step(self) -> None:
        """This graph's own actions after an optimiser step."""


def share(layers: nn.ModuleList, paths: tuple[str, ...]) -> None:
    """Let all layers use the first one's module at each path."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        for layer in layers[1:]:
            setattr(layer.get_submodule(parent), name, layers[0].get_submodule(path))
            layer.table = {key: weight for key, weight in layer.table.items() if not key.startswith(f"{path}.")}

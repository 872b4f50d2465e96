"""Tensors of a Hugging Face model to those of a graph, and back; what one direction does the other undoes."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.graph import Graph, Node
from blockgraph.op import Param, State
from runners.hf.maps import Map, Rule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Link:
    """A weight of a graph and the tensors that hold it; from `rows` on, its rule's fields, as numbers.

    `layers` are names of tensors, a group for each layer of a stacked weight; there is one group where none is.
    """

    name: str
    shape: tuple[int, ...]
    layers: tuple[tuple[str, ...], ...]
    stacked: bool
    transpose: bool
    rows: tuple[int, ...]
    order: tuple[int, ...]
    axis: int
    stored: tuple[int, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all the tensors."""
        return tuple(part for layer in self.layers for part in layer)

    def ours(self, tensors: Mapping[str, "Tensor"]) -> "Tensor":
        """The weight, from the tensors by their names there."""
        import torch

        layers = [self._joined([tensors[part] for part in layer]) for layer in self.layers]
        value = torch.stack(layers) if self.stacked else layers[0]
        return self._laid(value, self.rows, self.order).contiguous()

    def theirs(self, value: "Tensor") -> dict[str, "Tensor"]:
        """The tensors by their names there, from the weight."""
        back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        value = self._laid(value, tuple(self.rows[axis] for axis in self.order), back)
        layers = value.unbind() if self.stacked else (value,)
        return {
            name: (part.mT if self.transpose else part.reshape(self.stored or part.shape)).contiguous()
            for names, layer in zip(self.layers, layers, strict=True)
            for name, part in zip(names, layer.chunk(len(names)) if len(names) > 1 else (layer,), strict=True)
        }

    def _joined(self, parts: list["Tensor"]) -> "Tensor":
        import torch

        parts = [self._read(part) for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _read(self, part: "Tensor") -> "Tensor":
        """One tensor in the spec's sizes."""
        if self.stored and part.shape == self.stored:
            return part.reshape(self.shape)
        return part.mT if self.transpose else part  # a shape that does not fit is told by its sizes

    def _laid(self, value: "Tensor", rows: tuple[int, ...], order: tuple[int, ...]) -> "Tensor":
        if not rows or value.dim() <= self.axis or value.shape[self.axis] != math.prod(rows):
            return value  # a shape that does not fit is told by its sizes
        front, rest = value.shape[: self.axis], value.shape[self.axis + 1 :]
        moved = [self.axis + place for place in order]
        axes = (*range(self.axis), *moved, *range(self.axis + len(order), self.axis + len(order) + len(rest)))
        return value.reshape(*front, *rows, *rest).permute(axes).reshape(value.shape)


def links(one: Map, graph: Graph) -> list[Link]:
    """A link for every weight of a graph; raises `SpecError` where the map has no line for one."""
    return [_link(one, graph, name, shape) for name, shape in shapes(graph).items()]


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Every weight of a graph, and every bias that actions alone change, by its name in the state dict.

    One that layers share has its name in the first of them.
    """
    return {
        f"{prefix}{node.home}.{tensor.name}": tuple(size.known or 0 for size in tensor.sizes)
        for prefix, node in graph.owners()
        for tensor in _stored(node)
    }


def imported(one: Map, graph: Graph, tensors: Mapping[str, "Tensor"], place: Place) -> dict[str, "Tensor"]:
    """The weights of a graph; raises `SpecError` with tensors that are missing, left over or of another shape."""
    wanted = links(one, graph)
    named = _with_prefix(one, {part for link in wanted for part in link.parts}, tensors)
    problems = [Problem(message, place) for message in _differences(one, wanted, named)]
    if problems:
        raise SpecError(problems)
    found = {link.name: link.ours(named) for link in wanted}
    for link in wanted:
        if tuple(found[link.name].shape) != link.shape:
            told = f"{' and '.join(link.parts)}: {list(found[link.name].shape)} for {link.name} {list(link.shape)}"
            problems.append(Problem(told, place))
    if problems:
        raise SpecError(problems)
    return found


def exported(one: Map, graph: Graph, tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors of a Hugging Face model, from the weights of a graph."""
    return {name: part for link in links(one, graph) for name, part in link.theirs(tensors[link.name]).items()}


def _stored(node: Node) -> Iterator[Param | State]:
    yield from node.params
    yield from (state for state in node.states if state.free)


def _link(one: Map, graph: Graph, name: str, shape: tuple[int, ...]) -> Link:
    for pattern, rule in one.weights.items():
        found = re.fullmatch(_regex(pattern), name)
        if found:
            whole = Rule.model_validate({"from": rule}) if isinstance(rule, str) else rule
            rows, stored = (_sizes(graph, sizes) for sizes in (whole.rows, whole.shape))
            count = 0 if whole.stack is None else graph.dims.size(whole.stack).known or 0
            indices = [(*found.groups(), str(layer)) for layer in range(count)] or [found.groups()]
            layers = tuple(tuple(_filled(part, index) for part in whole.names) for index in indices)
            order = tuple(whole.order)
            return Link(name, shape, layers, count > 0, whole.transpose, rows, order, whole.axis, stored)
    told = f"the map of {one.spec} has no line for the weight {name}"
    raise SpecError([Problem(told, Place(f"{one.spec}.hf.yaml", 0))])


def _sizes(graph: Graph, texts: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(graph.dims.size(text).known or 0 for text in texts)


def _regex(pattern: str) -> str:
    return r"(\d+)".join(re.escape(part) for part in pattern.split("*"))


def _filled(pattern: str, indices: Iterable[str]) -> str:
    for index in indices:
        pattern = pattern.replace("*", index, 1)
    return pattern


def _with_prefix(one: Map, wanted: set[str], tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors as the whole model calls them."""
    if not one.prefix or any(name.startswith(one.prefix) for name in tensors):
        return dict(tensors)
    return {f"{one.prefix}{name}" if f"{one.prefix}{name}" in wanted else name: x for name, x in tensors.items()}


def _differences(one: Map, wanted: list[Link], tensors: Mapping[str, "Tensor"]) -> Iterator[str]:
    """What is missing and what nobody asks for."""
    parts = {part: link.name for link in wanted for part in link.parts}
    for part, name in parts.items():
        if part not in tensors:
            yield f"no tensor is called {part}, which {name} is made of"
    for name in tensors:
        if name not in parts and not any(re.fullmatch(_regex(pattern), name) for pattern in one.ignore):
            yield f"the tensor {name} is no weight of {one.spec}"

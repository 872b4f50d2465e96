"""The lines of a spec around its nodes: name, title, dims, slots, sizes, inputs and outputs."""

from collections.abc import Mapping as Table
from typing import Any, Literal

from pydantic import Field

from blockgraph.dims import LAYER, RUNTIME, Dims, Size
from blockgraph.errors import OpError, Place, Problems
from blockgraph.names import check_name
from blockgraph.schema import Fields, fill
from blockgraph.syntax import Mapping, Sequence, plain
from blockgraph.types import Type


class Header(Fields):
    """The keys of a spec; `block` or `model` gives its kind and its name."""

    block: str | None = Field(None, description="name of a block")
    model: str | None = Field(None, description="name of a model")
    title: str = Field("", description="title of the figure")
    paper: str = Field("", description="where it was published")
    causal: bool = Field(True, description="whether a token may depend on earlier tokens alone")
    dims: dict[str, Any] = Field({}, description="sizes by name: numbers, expressions, or null for run-time dims")
    slots: dict[str, str] = Field({}, description="names that stacks hold, and the blocks they stand for")
    sizes: dict[str, dict[str, Any]] = Field({}, description="sets of dims by name, chosen with `size`")
    inputs: dict[str, list[Any]] = Field(description="values from outside, by name, with their sizes")
    nodes: dict[str, Any] = Field(description="nodes and groups, by name")
    outputs: dict[str, str] = Field(description="values that the graph gives, by name")
    blocks: dict[str, Any] = Field({}, description="blocks written inside a model")

    @property
    def kind(self) -> Literal["block", "model"]:
        """Block or model."""
        return "model" if self.model is not None else "block"

    @property
    def name(self) -> str:
        """The spec's own name."""
        return self.model or self.block or ""


def read_header(tree: Mapping, problems: Problems) -> Header | None:
    """The header, or None with every reason in `problems`."""
    if ("block" in tree.items) == ("model" in tree.items):
        problems.add("a spec begins with either `block: NAME` or `model: NAME`", tree.place)
        return None
    header = fill(Header, tree, problems)
    if header is not None:
        key = header.kind
        check_name(header.name, f"the {key}", tree.items[key].place, problems)
    return header


def read_dims(header: Header, tree: Mapping, given: Table[str, int], problems: Problems) -> Dims:
    """The dims in the order of the text; `given` values take the place of what the text says."""
    sizes = {name: Size.symbol(name) for name in RUNTIME}
    sizes |= {name: Size.symbol(name, given[name]) for name in ("n_layers",) if name in given}
    body = tree.items.get("dims")
    for name, text in header.dims.items():
        assert isinstance(body, Mapping)
        if name in (*RUNTIME, LAYER):
            problems.add(f"'{name}' is bound when the model runs, so a spec does not set it", body.keys[name])
        elif check_name(name, "the dim", body.keys[name], problems):
            sizes[name] = _dim(name, given.get(name, text), Dims(sizes), body.items[name].place, problems)
    return Dims(sizes)


def _dim(name: str, text: Any, dims: Dims, place: Place, problems: Problems) -> Size:
    if text is None:
        return Size.symbol(name)
    try:
        size = dims.size(text)
    except OpError as error:
        problems.add(f"dim {name}: {error}", place)
        return Size.symbol(name)
    return Size.symbol(name, size.known) if not size.names else size


def read_inputs(
    header: Header, tree: Mapping, dims: Dims, problems: Problems
) -> tuple[dict[str, Type], dict[str, Place]]:
    """Types of the inputs, and the place of each; an input without a feature axis holds token ids."""
    body = tree.items["inputs"]
    assert isinstance(body, Mapping)
    types: dict[str, Type] = {}
    for name, axes in body.items.items():
        assert isinstance(axes, Sequence)
        if check_name(name, "the input", body.keys[name], problems):
            try:
                sizes = tuple(dims.size(plain(axis)) for axis in axes.items)
            except OpError as error:
                problems.add(f"input {name}: {error}", axes.place)
                continue
            indices = all(size.known is None for size in sizes)
            types[name] = Type(sizes, "int" if indices else "float")
    return types, {name: body.keys[name] for name in types}

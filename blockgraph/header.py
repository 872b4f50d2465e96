"""The lines of a spec around its nodes: name, title, dims, slots, sizes, inputs and outputs."""

from collections.abc import Mapping as Table
from collections.abc import Set
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from blockgraph.dims import LAYER, RUNTIME, Dims, Size
from blockgraph.errors import OpError, Place, Problems, Told, closest
from blockgraph.names import check_name
from blockgraph.schema import Fields, fill
from blockgraph.syntax import Mapping, Sequence, Value, describe, place_of, plain
from blockgraph.types import Type

KINDS = ("block", "model")
STRUCTURE = (*KINDS, "dims", "slots", "inputs", "nodes", "outputs", "blocks")  # what the rest of a text rests on


class Header(Fields):
    """The keys of a spec; `block` or `model` gives its kind and its name."""

    block: str | None = Field(None, description="name of a block")
    model: str | None = Field(None, description="name of a model")
    title: str = Field("", description="title of the figure")
    paper: str = Field("", description="where it was published")
    causal: bool = Field(True, description="whether a token may depend on earlier tokens alone")
    dims: dict[str, Any] = Field({}, description="sizes by name: numbers, expressions, or null for run-time dims")
    slots: dict[str, Any] = Field({}, description="names that stacks hold, and the blocks they stand for")
    sizes: dict[str, Any] = Field({}, description="sets of dims by name, chosen with `size`")
    inputs: dict[str, Any] = Field(description="values from outside, by name, with their sizes")
    nodes: dict[str, Any] = Field(description="nodes and groups, by name")
    outputs: dict[str, Any] = Field(description="values that the graph gives, by name")
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
    """The header, or None where nothing more can be read; `problems` has every reason.

    A fault in a title or in a key without meaning leaves a header that the rest of the file can be checked with.
    """
    if not _has_kind(tree, problems):
        return None
    header = fill(Header, tree, problems) or fill(Header, _structure(tree), Problems())
    if header is not None:
        check_name(header.name, f"the {header.kind}", tree.items[header.kind].place, problems)
    return header


def _has_kind(tree: Mapping, problems: Problems) -> bool:
    given = [kind for kind in KINDS if kind in tree.items]
    if len(given) == 2:
        problems.add("a spec is a block or a model, and this is called both", tree.keys["model"])
    elif not given:
        near = {key: closest(key, KINDS) for key in tree.items if key not in Header.model_fields}
        misspelt = next((key for key, kind in near.items() if kind), None)
        if misspelt is None:
            problems.add("a spec begins with `block: NAME` or `model: NAME`", tree.place)
        else:
            problems.add(f"unknown key '{misspelt}'", tree.keys[misspelt], f"did you mean '{near[misspelt]}'?")
    return len(given) == 1


def _structure(tree: Mapping) -> Mapping:
    """What the graph rests on; outputs that are left out are none."""
    items: dict[str, Value] = {key: tree.items[key] for key in STRUCTURE if key in tree.items}
    if not isinstance(items.get("outputs"), Mapping):
        items["outputs"] = Mapping({}, {}, tree.place)
    return replace(tree, items=items)


def read_dims(
    header: Header, tree: Mapping, given: Table[str, int | None], around: Set[str], problems: Problems
) -> Dims:
    """The dims in the order of the text; `given` values take the place of what the text says, None a faulty one.

    Those of `around`, the text that this one is written in, are known without being listed.
    """
    sizes = {name: Size.symbol(name) for name in RUNTIME}
    sizes |= {name: Size.symbol(name, given[name]) for name in ("n_layers", *sorted(around)) if name in given}
    broken, later = {name for name, value in given.items() if value is None}, set(header.dims)
    dims = Dims(sizes, broken, later, layered=header.kind == "block")
    body = tree.items.get("dims")
    for name, text in header.dims.items():
        assert isinstance(body, Mapping)
        if name in (*RUNTIME, LAYER):
            problems.add(f"'{name}' is bound when the model runs, so a spec does not set it", body.keys[name])
            continue
        check_name(name, "the dim", body.keys[name], problems)
        later.discard(name)
        size = _dim(dims, name, given.get(name, text), body.items[name], problems) if name not in broken else None
        if size is None:
            broken.add(name)
        else:
            sizes[name] = size
    return dims


def _dim(dims: Dims, name: str, text: Any, written: Value, problems: Problems) -> Size | None:
    if text is None:
        return Size.symbol(name)
    try:
        size = dims.size(text)
    except OpError as error:
        if not isinstance(error, Told):
            problems.add(f"dim {name}: {error}", place_of(str(error), written))
        return None
    return size if size.names else Size.symbol(name, size.known)


def read_inputs(
    header: Header, tree: Mapping, dims: Dims, problems: Problems
) -> tuple[dict[str, Type], dict[str, Place]]:
    """Types of the inputs, and the places of all, also of those whose type is at fault."""
    body = tree.items["inputs"]
    assert isinstance(body, Mapping)
    types: dict[str, Type] = {}
    for name, axes in body.items.items():
        check_name(name, "the input", body.keys[name], problems)
        sizes = _axes(name, axes, dims, problems)
        if sizes is not None:
            types[name] = Type(sizes, "int" if _are_ids(sizes, header) else "float").settled()
    return types, dict(body.keys)


def _are_ids(sizes: tuple[Size, ...], header: Header) -> bool:
    """Whether a value has no features, as token ids alone: `[batch, seq]`, or `[batch, src]` with `src: null`."""
    if all(size.names and size.names <= set(RUNTIME) for size in sizes):
        return True
    batch, *lengths = sizes
    return str(batch) == "batch" and len(lengths) == 1 and header.dims.get(str(lengths[0]), "") is None


def _axes(name: str, axes: Value, dims: Dims, problems: Problems) -> tuple[Size, ...] | None:
    if not isinstance(axes, Sequence) or not axes.items:
        found = "an empty list" if isinstance(axes, Sequence) else describe(axes)
        problems.add(f"input {name}: its sizes are a list such as [batch, seq, d_model], found {found}", axes.place)
        return None
    sizes = []
    for axis in axes.items:
        try:
            sizes.append(dims.size(plain(axis)))
        except OpError as error:
            if not isinstance(error, Told):
                problems.add(f"input {name}: {error}", place_of(str(error), axis))
    return tuple(sizes) if len(sizes) == len(axes.items) else None

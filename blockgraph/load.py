"""A spec by name or path, with dims and slots set, to a checked graph."""

from collections.abc import Mapping as Table
from pathlib import Path

from blockgraph.check import check
from blockgraph.dims import Dims
from blockgraph.errors import OpError, Place, Problems, SpecError, near_miss
from blockgraph.graph import Graph
from blockgraph.library import Library, is_path, shipped
from blockgraph.link import Linker
from blockgraph.op import Op
from blockgraph.ops import OPS
from blockgraph.syntax import Mapping, plain

Setting = int | str | Path

COMMAND_LINE = Place("<set>", 0)


def load(
    spec: str | Path,
    *,
    ops: Table[str, type[Op]] = OPS,
    places: Table[str, Place] | None = None,
    base: str | Path = ".",
    **settings: Setting,
) -> Graph:
    """The checked graph of a spec.

    A bare name is looked up in the specs that ship with the package, a path is a path. `settings` give dims
    (`n_layers=4`), slots (`block="qk_norm"`) and `size`, a named set of dims of the spec; a path given for a slot is
    relative to `base`. `places` says where each setting was written. Raises `SpecError` with all that is wrong.
    """
    problems, library = Problems(), Library()
    path = find(spec, problems)
    tree = library.open(path)
    places = places or {}
    slots, dims = _sorted(tree, settings, places, Path(base), problems)
    linker = Linker(ops, library, problems, slots, dict(dims))
    graph = linker.link(tree, path.parent)
    for name in dims if graph else ():
        if name not in linker.used:
            known = {*linker.used, *_slots(tree), "size"}
            hint = near_miss(name, known) or f"known are {', '.join(sorted(known))}"
            problems.add(f"no dim or slot is called '{name}'", places.get(name, COMMAND_LINE), hint)
    if graph is not None and not problems.found:
        graph = check(graph, problems)
    problems.stop_if_any()
    assert graph is not None
    return graph


def find(spec: str | Path, problems: Problems) -> Path:
    """File of a spec given by name or path; raises `SpecError` when there is none."""
    name = str(spec)
    if isinstance(spec, str) and not is_path(name):
        path = shipped().get(name)
        if path is None:
            here = f"for the file in this folder write ./{name}.yaml" if Path(f"{name}.yaml").is_file() else ""
            hint = here or near_miss(name, shipped()) or "`blockgraph list` shows the specs that ship with the package"
            problems.add(f"no spec is called '{name}'", Place(name, 0), hint)
    else:
        path = Library().find(name if is_path(name) else f"./{name}", Path(), Place(name, 0), problems)
    problems.stop_if_any()
    assert path is not None
    return path


def _slots(tree: Mapping) -> dict[str, str]:
    slots = tree.items.get("slots")
    return plain(slots) if isinstance(slots, Mapping) else {}


def _sorted(
    tree: Mapping, settings: Table[str, Setting], places: Table[str, Place], base: Path, problems: Problems
) -> tuple[dict[str, tuple[str, Path, Place]], dict[str, int]]:
    """Settings apart: blocks for slots, numbers for dims."""
    slots: dict[str, tuple[str, Path, Place]] = {}
    dims = _size(tree, settings, places, problems)
    for name, value in settings.items():
        place = places.get(name, COMMAND_LINE)
        if name in _slots(tree):
            slots[name] = (str(value), base, place)
        elif name != "size":
            dims |= _number(name, value, place, problems)
    return slots, dims


def _size(
    tree: Mapping, settings: Table[str, Setting], places: Table[str, Place], problems: Problems
) -> dict[str, int]:
    if "size" not in settings:
        return {}
    sizes, name = tree.items.get("sizes"), str(settings["size"])
    known = sizes.items if isinstance(sizes, Mapping) else {}
    if name not in known:
        hint = near_miss(name, known) or (f"known are {', '.join(known)}" if known else "the spec has no `sizes`")
        problems.add(f"no size is called '{name}'", places.get("size", COMMAND_LINE), hint)
        return {}
    chosen, dims = known[name], {}
    for dim, value in plain(chosen).items():
        assert isinstance(chosen, Mapping)
        dims |= _number(dim, value, chosen.items[dim].place, problems)
    return dims


def _number(name: str, value: Setting, place: Place, problems: Problems) -> dict[str, int]:
    try:
        size = Dims({}).size(value if isinstance(value, int) else str(value))
    except OpError as error:
        problems.add(f"{name}: {error}", place)
        return {}
    assert size.known is not None
    return {name: size.known}

"""A spec by name or path, with dims and slots set, to a checked graph."""

import os
from collections.abc import Mapping as Table
from pathlib import Path

from blockgraph.check import check
from blockgraph.choice import Choice, Setting
from blockgraph.errors import Place, Problems, near_miss
from blockgraph.graph import Graph
from blockgraph.library import Library, is_path, shipped
from blockgraph.link import Linker
from blockgraph.op import Op
from blockgraph.ops import OPS

__all__ = ["Setting", "find", "load"]


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
    problems, library, places = Problems(), Library(), places or {}
    path = find(spec, problems)
    tree = library.open(path, problems)
    chosen = Choice(tree, places, Path(base), problems)
    slots, dims = chosen.sort(settings)
    linker = Linker(ops, library, problems, slots, dims, chain=(path.resolve(),))
    graph = linker.link(tree, path.parent)
    if graph is not None:
        chosen.tell_unfit()
        if not linker.lost:
            chosen.tell_unknown(settings, linker.used)
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
            here = f"for the file in this folder write ./{name}.yaml" if os.path.isfile(f"{name}.yaml") else ""
            hint = here or near_miss(name, shipped()) or "`blockgraph list` shows the specs that ship with the package"
            problems.add(f"no spec is called '{name}'", Place(name, 0), hint)
    elif os.path.exists(name):
        path = Path(name)
    else:
        path = Library().find(name if is_path(name) else f"./{name}", Path(), Place(name, 0), problems)
    problems.stop_if_any()
    assert path is not None
    return path

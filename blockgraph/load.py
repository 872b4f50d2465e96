"""A spec by name or path, with dims and slots set, to a checked graph."""

import os
from collections.abc import Mapping as Table
from dataclasses import replace
from pathlib import Path
from typing import Any

from blockgraph.canonical import canonical
from blockgraph.check import check
from blockgraph.choice import Choice, Setting
from blockgraph.edits.editing import Edited, Editing, edited
from blockgraph.edits.moving import relocated
from blockgraph.errors import Place, Problem, Problems, SpecError
from blockgraph.graph import Graph
from blockgraph.library import Library, Source, is_path, like_name, parts, shipped
from blockgraph.link import Linker
from blockgraph.op import Op
from blockgraph.ops import OPS
from blockgraph.syntax import parse

__all__ = ["Setting", "edited_text", "find", "load"]


def load(
    spec: str | Path,
    *,
    ops: Table[str, type[Op]] = OPS,
    places: Table[str, Place] | None = None,
    base: str | Path = ".",
    **settings: Setting,
) -> Graph:
    """The checked graph of a spec.

    A bare name is looked up in the specs that ship with the package, a path is a path; edits may stand behind either,
    as in `baseline + qk_norm`. `settings` give dims
    (`n_layers=4`), slots (`block="qk_norm"`) and `size`, a named set of dims of the spec; a path given for a slot is
    relative to `base`. `places` says where each setting was written. Raises `SpecError` with all that is wrong.
    """
    problems, library, places = Problems(), Library(Editing(ops)), places or {}
    source = _source(spec, library, problems)
    chosen = Choice(source.text, places, Path(base), problems)
    slots, dims = chosen.sort(settings)
    linker = Linker(ops, library, problems, slots, dims, chain=(source.identity,))
    graph = linker.link(source.text, source.folder)
    if graph is not None:
        chosen.tell_unfit()
        if not linker.lost:
            chosen.tell_unknown(settings, linker.used)
        graph = check(graph, problems)
    problems.stop_if_any()
    assert graph is not None
    return graph


def edited_text(
    spec: str | Path,
    *edits: str | Path,
    ops: Table[str, type[Op]] = OPS,
    name: str = "",
    folder: Path | None = None,
) -> Edited:
    """The text of a spec with edits, in order, checked as it would lie in a folder, or beside the spec.

    Edits are named as specs are. `name` is the new spec's own. Raises `SpecError`.
    """
    problems, library = Problems(), Library(Editing(ops))
    path, before = find_all(spec, problems)
    files = (*before, *(find_edit(edit, problems) for edit in edits))
    made = edited(library, path, files, ops, name)
    beside = _checked(made, path, path.parent, ops)
    if folder is None:
        return made
    moved = replace(made, text=relocated(made.text, path.parent, folder))
    if _held(_checked(moved, path, folder, ops)) != _held(beside):
        told = f"a name in the text means another block in {folder} than beside {path}"
        raise SpecError(
            [Problem(told, Place(made.file, 0), f"write it into {path.parent}, or name that block by its path")]
        )
    return moved


def _held(graph: Graph) -> list[dict[str, Any]]:
    """What the blocks of a graph compute, whatever they are called."""
    return [canonical(block) for node in graph.nodes.values() for block in node.blocks]


def _checked(made: Edited, path: Path, folder: Path, ops: Table[str, type[Op]]) -> Graph:
    """The graph of an edited text that lies in a folder. Raises `SpecError`."""
    problems, library = Problems(), Library(Editing(ops))
    graph = Linker(ops, library, problems, chain=(path.resolve(),)).link(parse(made.text, made.file), folder)
    if graph is not None:
        graph = check(graph, problems)
    problems.stop_if_any()
    assert graph is not None
    return graph


def _source(spec: str | Path, library: Library, problems: Problems) -> Source:
    """The text of a spec given by name or path, with its edits. Raises `SpecError`."""
    path, edits = find_all(spec, problems)
    source = library.of(path, edits, Place(str(spec), 0), problems)
    assert source is not None
    return source


def find_all(spec: str | Path, problems: Problems) -> tuple[Path, tuple[Path, ...]]:
    """Files of a spec and of the edits behind it. Raises `SpecError`."""
    base, *edits = parts(spec) if isinstance(spec, str) else [spec]
    return find(base, problems), tuple(find_edit(edit, problems) for edit in edits)


def find_edit(edit: str | Path, problems: Problems) -> Path:
    """File of an edit given by name or path. Raises `SpecError`."""
    name = str(edit) if isinstance(edit, str) else str(edit.absolute())
    path = Library().find_edit(name, Path(), Place(str(edit), 0), problems)
    problems.stop_if_any()
    assert path is not None
    return path


def find(spec: str | Path, problems: Problems) -> Path:
    """File of a spec given by name or path; raises `SpecError` when there is none."""
    name = str(spec)
    if isinstance(spec, str) and not is_path(name):
        path = shipped().get(name)
        if path is None:
            here = f"for the file in this folder write ./{name}.yaml" if os.path.isfile(f"{name}.yaml") else ""
            problems.add(f"no spec is called '{name}'", Place(name, 0), here or like_name(name, shipped()))
    elif os.path.exists(name):
        path = Path(name)
    else:
        path = Library().find(name if is_path(name) else f"./{name}", Path(), Place(name, 0), problems)
    problems.stop_if_any()
    assert path is not None
    return path

"""Ops in files of the user's own: read, held against the contract, and named by line for what they raise."""

import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.library import shown
from blockgraph.op import Op, Role, Style

OWN = "blockgraph_own_"  # before the names of modules with the user's ops, which may be called like any other module


def ops_of(path: Path) -> dict[str, type[Op]]:
    """The ops of a file by name; raises `SpecError` when it does not run, or one of them lacks what an op has."""
    module = _module(path)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Op) and value.__module__ == module.__name__
    ]
    ops = {op.name: op for op in found if "name" in vars(op)}
    if not ops:
        told = "the file has no ops: a class that derives from blockgraph.op.Op and has a `name`"
        raise SpecError([Problem(told, Place(str(path), 0))])
    faults = [_at(path, op, lack) for op in ops.values() for lack in _lacks(op)]
    if faults:
        raise SpecError(faults)
    return ops


def raised_by_own(error: BaseException) -> Problem | None:
    """The fault of a file with own ops, at the line that raised the error; None where no such file had a part in it."""
    files = {module.__file__ for name, module in sys.modules.items() if name.startswith(OWN)}
    if isinstance(error, SyntaxError) and error.filename and error.filename in files:
        place = Place(_shown(error.filename), error.lineno or 1, error.offset or 1, (error.text or "").rstrip("\n"))
        return Problem(f"not Python: {error.msg}", place)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not frames:
        return None
    *_, last = frames
    text, column = linecache.getline(last.filename, last.lineno or 1).rstrip("\n"), (last.colno or 0) + 1
    place = Place(_shown(last.filename), last.lineno or 1, column, text)
    where = "" if last.name == "<module>" else f"in `{last.name}`, "
    return Problem(f"{where}{type(error).__name__}: {error}", place)


def _module(path: Path) -> ModuleType:
    name, place = f"{OWN}{path.stem}", Place(str(path), 0)
    spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if spec is None or spec.loader is None or not path.is_file():
        raise SpecError([Problem(f"there is no Python file '{path}'", place)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that inspect finds the source of its kernels
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        told = Problem(f"the file does not run: {type(error).__name__}: {error}", place)
        raise SpecError([raised_by_own(error) or told]) from error
    return module


def _lacks(op: type[Op]) -> Iterator[str]:
    """What keeps a class from being an op."""
    if op.infer is Op.infer:
        yield "`infer`, which gives the type of its value, is missing"
    if op.lower is Op.lower:
        yield "`lower`, which gives its text in torch, is missing"
    style = getattr(op, "style", None)
    if not isinstance(style, Style):
        yield "`style`, as in Style('activation', 'Quick GELU'), is missing"
    elif style.role not in get_args(Role):
        yield f"style: '{style.role}' is no role of figures; known are {', '.join(get_args(Role))}"


def _at(path: Path, op: type[Op], lack: str) -> Problem:
    lines, number = inspect.getsourcelines(op)
    return Problem(f"{op.__name__}: {lack}", Place(str(path), number, 1, lines[0].rstrip("\n"), len("class")))


def _shown(name: str) -> str:
    return str(shown(Path(name)))

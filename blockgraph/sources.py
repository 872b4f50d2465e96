"""Texts of the functions that generated modules carry: the package's kernels and those of the user's own ops."""

import ast
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.op import Op

KERNELS = Path(__file__).parent / "kernels"
BASE = ("Weight", "initial_value", "Parameters", "GraphModule")  # what every module builds on
OWN = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn"  # what classes may use


@dataclass(frozen=True)
class Definition:
    """A function, a class or a constant of a file, as it is written there."""

    name: str
    text: str
    place: Place


@dataclass(frozen=True)
class Import:
    """One name that a file imports."""

    name: str
    module: str
    member: str = ""


@dataclass
class Sources:
    """What generated text can call by name."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)

    def add(self, other: "Sources") -> None:
        """The names of another file; raises `SpecError` where one name would stand for two things."""
        for name, definition in other.definitions.items():
            known = self.definitions.get(name)
            if name in self.imports or (known is not None and known.text != definition.text):
                message = f"'{name}' is also the name of something that compiled modules carry"
                raise SpecError([Problem(message, definition.place, "choose another name")])
            self.definitions[name] = definition
        self.imports = {**other.imports, **self.imports}

    def needed(self, texts: Iterable[str]) -> tuple[list[str], list[Import]]:
        """Definitions that the texts use, each after the ones it uses itself, and every import."""
        ordered: dict[str, str] = {}
        used = {name: None for text in texts for name in sorted(_names(text))}
        for name in (*BASE, *used):
            self._collect(name, ordered)
        names = set(used).union(*(_names(text) for text in ordered.values()))
        return list(ordered.values()), [found for name, found in self.imports.items() if name in names]

    def _collect(self, name: str, ordered: dict[str, str], above: tuple[str, ...] = ()) -> None:
        if name in ordered or name in above or name not in self.definitions:
            return
        text = self.definitions[name].text
        for other in sorted(_names(text)):
            self._collect(other, ordered, (*above, name))
        ordered[name] = text


def sources(ops: Iterable[type[Op]]) -> Sources:
    """The package's kernels, and everything in the files that define the user's own ops."""
    found = Sources()
    found.add(_kernels())
    for file in dict.fromkeys(file for op in ops for file in _files(op)):
        found.add(_read(file))
    return found


def import_lines(imports: Iterable[Import]) -> str:
    """Import statements in the order of a formatter: the standard library first, plain imports before the others."""
    lines = sorted({*_plain(imports), *_from(imports)})
    groups = groupby(lines, key=lambda line: line[0])
    return "\n\n".join("\n".join(text for *_, text in group) for _, group in groups)


def _plain(imports: Iterable[Import]) -> Iterator[tuple[bool, bool, str, str]]:
    for found in imports:
        if not found.member:
            renamed = f" as {found.name}" if found.name != found.module.partition(".")[0] else ""
            yield _third_party(found.module), False, found.module, f"import {found.module}{renamed}"


def _from(imports: Iterable[Import]) -> Iterator[tuple[bool, bool, str, str]]:
    members: dict[str, list[str]] = {}
    for found in imports:
        if found.member:
            renamed = f" as {found.name}" if found.name != found.member else ""
            members.setdefault(found.module, []).append(f"{found.member}{renamed}")
    for module, names in members.items():
        ordered = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
        yield _third_party(module), True, module, f"from {module} import {', '.join(ordered)}"


def _third_party(module: str) -> bool:
    return module.partition(".")[0] not in sys.stdlib_module_names


def _files(op: type[Op]) -> list[str]:
    """Files of an op's class and of those it derives from, as far as they are not the package's own."""
    classes = [kind for kind in op.__mro__ if issubclass(kind, Op) and not kind.__module__.startswith("blockgraph.")]
    functions = (value for kind in classes for value in vars(kind).values() if inspect.isfunction(value))
    return [function.__code__.co_filename for function in functions]


@cache
def _kernels() -> Sources:
    found = Sources(imports=_imports(ast.parse(OWN)))
    for path in sorted(KERNELS.glob("*.py")):
        found.add(_read(str(path)))
    return found


def _read(file: str) -> Sources:
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    tree = ast.parse("".join(lines))
    found = Sources(imports=_imports(tree))
    for node in tree.body:
        place = Place(file, node.lineno, 1, lines[node.lineno - 1].rstrip())
        for name in _defined(node):
            found.definitions[name] = Definition(name, _text(node, lines), place)
    return found


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _text(node: ast.stmt, lines: list[str]) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return "".join(lines[first - 1 : node.end_lineno]).rstrip("\n")


def _imports(tree: ast.Module) -> dict[str, Import]:
    found: dict[str, Import] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                found[name] = Import(name, alias.name)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("blockgraph"):
            for alias in node.names:
                found[alias.asname or alias.name] = Import(alias.asname or alias.name, node.module or "", alias.name)
    return found


@cache
def _names(source: str) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))

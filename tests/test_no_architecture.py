"""A new architecture is a new text: no line of the library or of the runners names one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from blockgraph.library import shipped
from blockgraph.ops import OPS
from blockgraph.syntax import plain, read
from runners.hf.maps import shipped_maps

ROOT = Path(__file__).parent.parent
FILES = [path for folder in ("blockgraph", "runners") for path in sorted((ROOT / folder).rglob("*.py"))]


def plain_words(text: str) -> str:
    """Lower-case words with single spaces, so that `qk_norm`, `QK-norm` and `QK norm` are one."""
    return " ".join(re.findall("[a-z0-9]+", text.lower()))


@cache
def names() -> set[str]:
    """What the zoo's models are called: by their files, their titles and their maps; an op may be called like one."""
    zoo = {name: path for name, path in shipped().items() if path.parent.name == "zoo"}
    found = {*zoo, *(plain(read(path))["title"].partition(",")[0] for path in zoo.values())}
    for one in shipped_maps():
        found |= {one.architecture, one.architecture.partition("For")[0].removesuffix("LMHeadModel")}
    ops = {plain_words(text) for op in OPS.values() for text in (op.name, op.style.label)}
    return {plain_words(name) for name in found} - ops


def code_of(path: Path) -> str:
    """The words of a file's code and texts, without docstrings, where papers are cited."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return plain_words(ast.unparse(tree))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_line_names_an_architecture(path):
    words = f" {code_of(path)} "
    assert [name for name in sorted(names()) if f" {name} " in words] == []


def test_the_zoo_has_names_to_look_for():
    assert {"llama3", "llama 3", "llama", "mix ln", "gemma 2"} <= names()

"""A spec's text taken to another place: into another folder, or as a block into the text of a model."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from blockgraph.edits.layout import Layout, quoted
from blockgraph.library import is_path, parts

SCHEMA = "# yaml-language-server: $schema="
JOIN = " + "


def relocated(text: str, old: Path, new: Path) -> str:
    """The text with the paths in it, and the names in its slots, leading from a new folder to the files they led to."""
    if old.resolve() == new.resolve():
        return text
    layout = Layout(text)
    changes = []
    for node, beside in _words(layout.root):
        word = JOIN.join(_from(part, old, new, beside) for part in parts(node.value))
        if word != JOIN.join(parts(node.value)):
            changes.append((node.start_mark.index, node.end_mark.index, quoted(word, "k: [{}]")))
    return layout.changed(*changes).text


def unsigned(text: str) -> str:
    """The text without the line that tells editors a schema."""
    return text.partition("\n")[2] if text.startswith(SCHEMA) else text


def held(layout: Layout, name: str, block: str) -> Layout | None:
    """With the text of a block among the blocks that are written inside; None where these are written in braces."""
    if layout.flows(()) or ("blocks" in layout.pairs(()) and layout.flows(("blocks",))):
        return None
    body = unsigned(block).strip("\n")
    if "blocks" not in layout.pairs(()):
        return Layout(f"{layout.text.rstrip()}\n\nblocks:\n  {name}:\n{textwrap.indent(body, ' ' * 4)}\n")
    key, value = list(layout.pairs(("blocks",)).values())[-1]
    indent = " " * key.start_mark.column
    start = layout.line_start(value.end_mark.index) if value.end_mark.column == 0 else value.end_mark.index
    before, rest = layout.text[:start].rstrip("\n"), layout.text[start:].strip("\n")
    put = f"{before}\n\n{indent}{name}:\n{textwrap.indent(body, indent + '  ')}\n"
    return Layout(f"{put}\n{rest}\n" if rest else put)


def _words(node: yaml.Node, beside: bool = False) -> Iterator[tuple[yaml.ScalarNode, bool]]:
    """Every word that is a value, and whether it stands in `slots`, where a bare name may be that of a file."""
    match node:
        case yaml.MappingNode():
            for key, value in node.value:
                yield from _words(value, beside or key.value == "slots")
        case yaml.SequenceNode():
            for value in node.value:
                yield from _words(value)
        case yaml.ScalarNode():
            yield node, beside


def _from(word: str, old: Path, new: Path, beside: bool) -> str:
    """A word as a text in the new folder has to write it to mean the same file; one that means none stays."""
    file = old / (word if is_path(word) else f"{word}.yaml")
    if os.path.isabs(word) or not (is_path(word) or beside) or not file.is_file():
        return word
    path = os.path.relpath(file.resolve(), new.resolve())
    return path if is_path(path) and "/" in path else f"./{path}"

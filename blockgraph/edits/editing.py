"""A spec by name or path and edits by theirs, to the text of both."""

from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blockgraph.edits.apply import applied, renamed, shown_name
from blockgraph.edits.draft import Around
from blockgraph.edits.file import edit_of
from blockgraph.errors import Problems
from blockgraph.library import Library, shown
from blockgraph.op import Op
from blockgraph.syntax import Mapping, parse


@dataclass(frozen=True)
class Edited:
    """A whole text, the name that errors give it, and what was done to the base, a sentence each."""

    text: str
    file: str
    notes: list[str] = field(default_factory=list)


def edited(library: Library, base: Path, edits: Sequence[Path], ops: Table[str, type[Op]], own: str = "") -> Edited:
    """The text of a file with edits, in order, and with a name of its `own` where one is given. Raises `SpecError`."""
    library.open(base, problems := Problems())  # so that a text at fault is told as it lies there
    problems.stop_if_any()
    text = base.read_text(encoding="utf-8").removeprefix("\ufeff")
    notes: list[str] = []
    names: list[str] = []
    for path in edits:
        edit = edit_of(path, ops)
        around = Around(ops, library, base.parent, shown_name(shown(base), names))
        text, done = applied(text, edit, around, around.file)
        notes += done
        names.append(edit.name)
    text = renamed(text, own) if own else text
    return Edited(text, shown_name(shown(base), names), notes)


@dataclass(frozen=True)
class Editing:
    """What a library edits with."""

    ops: Table[str, type[Op]]

    def __call__(self, library: Library, base: Path, edits: Sequence[Path]) -> Mapping:
        """The placed text of a file with edits."""
        found = edited(library, base, edits, self.ops)
        return parse(found.text, found.file)

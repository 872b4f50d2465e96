"""Where specs are found: embedded in a model, beside the file that names them, by path, or shipped with the package."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.syntax import Mapping, read

PACKAGE = Path(__file__).resolve().parent
PLACES = "places.yaml"  # in the folder of the edits, what they share
KINDS = ("blocks", "models", "zoo")  # folders of shipped specs; beside them stand their maps, NAME.hf.yaml


def shipped_folder() -> Path:
    """Folder of the specs that ship with the package, installed or in a checkout."""
    installed = PACKAGE / "specs"
    return installed if installed.is_dir() else PACKAGE.parent / "specs"


def shipped() -> dict[str, Path]:
    """Blocks and models that ship with the package, by name."""
    folder = shipped_folder()
    files = (path for kind in KINDS for path in sorted((folder / kind).glob("*.yaml")))
    return {path.stem: path for path in files if "." not in path.stem}


def shipped_edits() -> dict[str, Path]:
    """Edits that ship with the package, by name."""
    files = sorted((shipped_folder() / "edits").glob("*.yaml"))
    return {path.stem: path for path in files if path.name != PLACES}


def shared_places() -> Path:
    """File of the places that every edit can name."""
    return shipped_folder() / "edits" / PLACES


def parts(name: str) -> list[str]:
    """A spec and the edits behind it, as in `baseline + qk_norm`."""
    return re.split(r"\s+\+\s+", name.strip())


def names_path(name: str) -> bool:
    """Whether a spec, or an edit behind it, is named by a path."""
    return any(map(is_path, parts(name)))


def located(name: str, folder: Path) -> str:
    """A name with its paths starting from a folder."""
    return " + ".join(str(folder / part) if is_path(part) else part for part in parts(name))


def stem(name: str) -> str:
    """A word for a spec by name or path, with the words of its edits behind it."""
    return "_".join(Path(part).stem if is_path(part) else part for part in parts(name))


def is_path(name: str) -> bool:
    """Whether a spec is named by its path and not by its bare name."""
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def shown(path: Path) -> Path:
    """The path as errors give it: relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@dataclass(frozen=True)
class Source:
    """The text of a spec, the folder it lies in, and what tells it from other texts."""

    text: Mapping
    folder: Path
    identity: object


class Editor(Protocol):
    """Applies edits, which need what comes after the library."""

    def __call__(self, library: "Library", base: Path, edits: Sequence[Path]) -> Mapping:
        """The placed text of a spec with edits; raises `SpecError`."""


@dataclass
class Library:
    """Finds and reads the specs that other specs name; each file is read once."""

    editor: Editor | None = None
    read_already: dict[Path, Mapping] = field(default_factory=dict)
    edited: dict[tuple[Path, ...], Mapping | None] = field(default_factory=dict)

    def source(
        self, name: str, folder: Path, place: Place, problems: Problems, others: Iterable[str] = ()
    ) -> Source | None:
        """The spec called `name`, as `find` looks for it, with the edits behind it; None with a problem."""
        base, *edits = parts(name)
        path = self.find(base, folder, place, problems, others)
        found = [self.find_edit(edit, folder, place, problems) for edit in edits]
        files = tuple(file for file in found if file is not None)
        if path is None or len(files) < len(found):
            return None
        return self.of(path, files, place, problems)

    def of(self, path: Path, edits: tuple[Path, ...], place: Place, problems: Problems) -> Source | None:
        """A file with edits; None with a problem where it is asked for while it is being made."""
        if not edits:
            return Source(self.open(path, problems), path.parent, path.resolve())
        assert self.editor is not None
        key = (path.resolve(), *(edit.resolve() for edit in edits))
        if key not in self.edited:
            self.edited[key] = None
            self.edited[key] = self.editor(self, path, edits)
        text = self.edited[key]
        if text is None:
            problems.add(f"'{shown(path)}' with edits holds itself", place)
            return None
        return Source(text, path.parent, key)

    def find_edit(self, name: str, folder: Path, place: Place, problems: Problems) -> Path | None:
        """File of an edit by its bare name or path; None with a problem where there is none."""
        path = folder / name if is_path(name) else shipped_edits().get(name)
        if path is not None and os.path.isfile(path):
            return path
        hint = near_miss(Path(name).stem, shipped_edits()) or "`blockgraph edit --list` shows those that ship"
        if not is_path(name) and os.path.isfile(folder / f"{name}.yaml"):
            hint = f"for the file in this folder write ./{name}.yaml"
        problems.add(f"there is no file '{name}'" if is_path(name) else f"no edit is called '{name}'", place, hint)
        return None

    def word_for(self, edit: Path, folder: Path) -> str:
        """How a text in a folder names an edit."""
        if shipped_edits().get(edit.stem) == edit:
            return edit.stem
        path = os.path.relpath(edit, folder)
        return path if is_path(path) else f"./{path}"

    def open(self, path: Path, problems: Problems) -> Mapping:
        """The placed text of a file; raises `SpecError` when it cannot be read on after a fault."""
        key = path.resolve()
        if key not in self.read_already:
            self.read_already[key] = read(shown(path), problems)
        return self.read_already[key]

    def find(
        self, name: str, folder: Path, place: Place, problems: Problems, others: Iterable[str] = ()
    ) -> Path | None:
        """File of the spec called `name` in a text that lies in `folder`; None with a problem where there is none.

        `others` are names that would have been right as well, for near misses.
        """
        path = folder / (name if is_path(name) else f"{name}.yaml")
        if os.path.isfile(path):
            return path
        if is_path(name):
            problems.add(f"there is no file '{name}'", place, _like_path(name, path.parent))
            return None
        known = shipped()
        if name not in known:
            beside = [path.stem for path in folder.glob("*.yaml") if os.path.isfile(path)]
            problems.add(f"no spec is called '{name}'", place, like_name(name, [*known, *others, *beside]))
        return known.get(name)


def _like_path(name: str, folder: Path) -> str:
    siblings = (
        [sibling.name for sibling in folder.glob("*.y*ml") if os.path.isfile(sibling)] if os.path.isdir(folder) else []
    )
    return near_miss(Path(name).name, siblings) or near_miss(Path(name).stem, shipped())


def like_name(name: str, known: Iterable[str]) -> str:
    """What a bare name that nothing has was probably meant to be, or where the names are found."""
    if "+" in name:
        return "an edit stands behind ' + ', with a space on each side"
    return near_miss(name, known) or "`blockgraph list` shows the specs that ship with the package"

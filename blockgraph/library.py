"""Where specs are found: embedded in a model, beside the file that names them, by path, or shipped with the package."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.syntax import Mapping, read

PACKAGE = Path(__file__).resolve().parent
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


def is_path(name: str) -> bool:
    """Whether a spec is named by its path and not by its bare name."""
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def shown(path: Path) -> Path:
    """The path as errors give it: relative to the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@dataclass
class Library:
    """Finds and reads the specs that other specs name; each file is read once."""

    read_already: dict[Path, Mapping] = field(default_factory=dict)

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
            problems.add(f"no spec is called '{name}'", place, _like_name(name, [*known, *others], folder))
        return known.get(name)


def _like_path(name: str, folder: Path) -> str:
    siblings = [sibling.name for sibling in folder.glob("*.y*ml")] if os.path.isdir(folder) else []
    return near_miss(Path(name).name, siblings) or near_miss(Path(name).stem, shipped())


def _like_name(name: str, known: list[str], folder: Path) -> str:
    beside = [path.stem for path in folder.glob("*.yaml")]
    return near_miss(name, [*known, *beside]) or "`blockgraph list` shows the specs that ship with the package"

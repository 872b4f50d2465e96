"""Where specs are found: embedded in a model, beside the file that names them, by path, or shipped with the package."""

from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.syntax import Mapping, read

PACKAGE = Path(__file__).resolve().parent


def shipped_folder() -> Path:
    """Folder of the specs that ship with the package, installed or in a checkout."""
    installed = PACKAGE / "specs"
    return installed if installed.is_dir() else PACKAGE.parent / "specs"


def shipped() -> dict[str, Path]:
    """Blocks and models that ship with the package, by name."""
    folder = shipped_folder()
    return {path.stem: path for kind in ("blocks", "models") for path in sorted((folder / kind).glob("*.yaml"))}


def is_path(name: str) -> bool:
    """Whether a spec is named by its path and not by its bare name."""
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def shown(path: Path) -> str:
    """The path as errors give it: relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@dataclass
class Library:
    """Finds and reads the specs that other specs name; each file is read once."""

    read_already: dict[Path, Mapping] = field(default_factory=dict)

    def open(self, path: Path) -> Mapping:
        """The placed text of a file; raises `SpecError` when it cannot be read."""
        if path not in self.read_already:
            self.read_already[path] = read(shown(path.resolve()) if path.exists() else path)
        return self.read_already[path]

    def find(self, name: str, folder: Path, place: Place, problems: Problems) -> Path | None:
        """File of the spec called `name` in a text that lies in `folder`; None with a problem where there is none."""
        if is_path(name):
            path = folder / name
            if not path.is_file():
                problems.add(f"there is no file '{name}'", place, _like_path(name, folder))
            return path if path.is_file() else None
        beside = folder / f"{name}.yaml"
        if beside.is_file():
            return beside
        known = shipped()
        if name not in known:
            problems.add(f"no spec is called '{name}'", place, _like_name(name, known, folder))
        return known.get(name)


def _like_path(name: str, folder: Path) -> str:
    asked = folder / name
    siblings = [path.name for path in asked.parent.glob("*.y*ml")] if asked.parent.is_dir() else []
    near = near_miss(asked.name, siblings)
    return near or near_miss(asked.stem, shipped())


def _like_name(name: str, known: Table[str, Path], folder: Path) -> str:
    beside = [path.stem for path in folder.glob("*.yaml")]
    return near_miss(name, [*known, *beside]) or "`blockgraph list` shows the specs that ship with the package"

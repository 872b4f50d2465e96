"""Files and folders written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from blockgraph.errors import Place, Problem, SpecError

LEFTOVER = ".*.tmp"  # what a process that was killed while it wrote may leave beside the target


def write(path: str | Path, data: str | bytes) -> Path:
    """Write a file that the user asked for; raises `SpecError` when the folder does not take it."""
    try:
        return save(Path(path), data)
    except OSError as error:
        raise _refuse(path, f"cannot write the file: {error.strerror}") from None


def save(path: Path, data: str | bytes) -> Path:
    """Write beside `path` and move into place, so that a reader or a crash sees the old content or the new.

    Raises `OSError` when the disk does not take it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync(path.parent)
    return path


def make_folder(out: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder beside its place, fill it, and move it there, so that it stands whole or not at all.

    Raises `SpecError` when something stands there already or the disk does not take it.
    """
    if out.exists():
        raise _refuse(out, "it exists already; name a new folder with -o")
    try:
        beside = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    except OSError as error:
        raise _refuse(out, f"cannot write the folder: {error.strerror}") from None
    try:
        fill(beside)
        beside.chmod(0o755)
        os.rename(beside, out)
    except OSError as error:
        raise _refuse(out, f"cannot write the folder: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse(path: str | Path, message: str) -> SpecError:
    return SpecError([Problem(message, Place(str(path), 0))])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

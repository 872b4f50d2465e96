"""Files written whole or not at all."""

import os
import tempfile
from pathlib import Path

from blockgraph.errors import Place, Problem, SpecError

LEFTOVER = ".*.tmp"  # what a process that was killed while it wrote may leave beside the target


def write(path: str | Path, data: str | bytes) -> Path:
    """Write a file that the user asked for; raises `SpecError` when the folder does not take it."""
    try:
        return save(Path(path), data)
    except OSError as error:
        message = f"cannot write the file: {error.strerror}"
        raise SpecError([Problem(message, Place(str(path), 0))]) from None


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


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

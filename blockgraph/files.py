"""Files written whole or not at all."""

import os
import tempfile
from pathlib import Path

from blockgraph.errors import Place, Problem, SpecError


def write(path: str | Path, data: str | bytes) -> Path:
    """Write beside the target and move into place; raises `SpecError` when the folder does not take it."""
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _refused(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _refused(path, error) from None
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refused(path: Path, error: OSError) -> SpecError:
    return SpecError([Problem(f"cannot write the file: {error.strerror}", Place(str(path), 0))])

"""YAML text to values that know their place."""

import os
from pathlib import Path

from blockgraph.compose import Composer, refuse
from blockgraph.errors import Place, Problems
from blockgraph.values import Mapping, Scalar, Sequence, Value, describe, place_of, plain, scalar, scalars

__all__ = [
    "Mapping", "Scalar", "Sequence", "Value", "describe", "parse", "parse_value", "place_of", "plain", "read", "scalar",
    "scalars",
]  # fmt: skip

MAX_BYTES = 1_000_000


def read(path: str | Path, problems: Problems | None = None) -> Mapping:
    """Read a YAML file whose top level is a mapping; raise `SpecError` with every fault of its syntax.

    Where `problems` is given, it takes those after which the rest can still be read, such as a key given twice.
    """
    name = str(path)
    if os.path.exists(name) and not os.path.isfile(name):
        raise refuse("not a regular file", Place(name, 0))  # a pipe would be waited for without end
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise refuse(f"cannot read the file: {error.strerror}", Place(name, 0)) from None
    except ValueError:
        raise refuse("not the name of a file", Place(name, 0)) from None
    if len(data) > MAX_BYTES:
        raise refuse(f"the file is larger than {MAX_BYTES:,} bytes", Place(name, 0))
    return parse(_decoded(data, name), name, problems)


def parse(text: str, file: str = "<text>", problems: Problems | None = None) -> Mapping:
    """Parse YAML text whose top level is a mapping; `file` is the name that errors give, `problems` as in `read`."""
    value = parse_value(text, file, problems)
    if not isinstance(value, Mapping):
        raise refuse(f"expected `key: value` lines, found {describe(value)}", value.place)
    return value


def parse_value(text: str, file: str = "<text>", problems: Problems | None = None) -> Value:
    """Parse YAML text of any kind, such as the value of a `key=value` override; `problems` as in `read`."""
    if len(text) > MAX_BYTES:
        raise refuse(f"a text of more than {MAX_BYTES:,} characters", Place(file, 0))
    found = Problems() if problems is None else problems
    value = Composer(text.removeprefix("\ufeff"), file, found).compose()
    if problems is None:
        found.stop_if_any()
    return value


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        place = Composer(data.decode(errors="replace"), name).place_at(len(before))
        raise refuse(f"the byte {data[error.start]:#04x} is not UTF-8 text", place) from None

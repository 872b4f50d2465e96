"""Texts tokenised once, and sequences drawn from them in an order that a seed and an index decide."""

import hashlib
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from blockgraph.errors import SpecError
from runners.cache import FORMAT, MANIFEST, Manifest, Part, Tokens, digest, made, mapped, refuse, verify, write_shards
from runners.corpus import DataConfig, Document, Source, Texts, shard_folder
from runners.tokenizer import MODEL, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

BATCH_CHARACTERS = 4_000_000  # of text tokenised at once
TURNS = 1024  # sequences within which several sources take turns at random
ROUNDS = 12  # of the Feistel network that shuffles; with half as many, small shuffles are visibly uneven
WORD = 2**64 - 1


@dataclass(frozen=True)
class Dataset:
    """Sequences to train on and to validate with; `tokens` are those of the training text.

    `bytes_per_token` is the held-out text's, so that losses of different tokenizers can be compared.
    """

    train: "Samples"
    validation: "Samples"
    digest: str
    tokens: int
    bytes_per_token: float


@dataclass(frozen=True)
class Windows:
    """The sequences of one source: `seq + 1` tokens each, the last of one being the first of the next."""

    parts: list[Part]
    shards: tuple[Tokens, ...]
    seq: int

    @property
    def tokens(self) -> int:
        """Tokens of the source, document ends counted."""
        return sum(part.tokens for part in self.parts)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(((len(shard) - 1) // self.seq for shard in self.shards), initial=0))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Tokens:
        shard = bisect_right(self._ends, index) - 1
        start = (index - self._ends[shard]) * self.seq
        return self.shards[shard][start : start + self.seq + 1]


@dataclass(frozen=True)
class Samples:
    """Sequences by their global index: in the order of the text, or shuffled without end once there is a seed.

    What stands at an index depends on the seed and the index alone, so an integer is all that a resumed run needs.
    """

    sources: tuple[Windows, ...]
    weights: tuple[float, ...]
    seed: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def shuffled(self, seed: int) -> "Samples":
        """The same sequences, every source in a fresh order each time it is gone through, mixed by weight."""
        return replace(self, seed=seed)

    def batch(self, first: int, count: int) -> "Tensor":
        """int64 tokens [count, seq + 1]; raises `IndexError` beyond the end of what is not shuffled."""
        import torch

        rows = [self._at(index) for index in range(first, first + count)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _at(self, index: int) -> Tokens:
        if self.seed is None:
            return self._in_order(index)
        chosen, turn = self._turn(index)
        windows = self.sources[chosen]
        epoch, at = divmod(turn, len(windows))
        return windows[permuted(at, len(windows), (self.seed, chosen, epoch))]

    def _in_order(self, index: int) -> Tokens:
        at = index
        for windows in self.sources:
            if at < len(windows):
                return windows[at]
            at -= len(windows)
        raise IndexError(f"there is no sequence {index} in {len(self)}")

    def _turn(self, index: int) -> tuple[int, int]:
        """Which source an index falls to, and how many earlier ones did.

        Of the first i indices floor(i * share) fall to the first source, and of those left likewise to the next, so
        nothing has to be counted. Indices change places within `TURNS`, so that no pattern shows.
        """
        if len(self.sources) == 1:
            return 0, index
        block, at = divmod(index, TURNS)
        index = block * TURNS + permuted(at, TURNS, (self.seed, "turns", block))
        for chosen, share in enumerate(self._shares):
            before = index * share.numerator // share.denominator
            if (index + 1) * share.numerator // share.denominator > before:
                return chosen, before
            index -= before
        raise AssertionError("the last share is 1")

    @cached_property
    def _shares(self) -> list[Fraction]:
        """Share of each source in what those before it leave."""
        exact = [Fraction(weight) for weight in self.weights]
        return [weight / sum(exact[at:]) for at, weight in enumerate(exact)]


def permuted(index: int, size: int, key: tuple[Any, ...]) -> int:
    """Where a keyed shuffle of `size` things puts `index`; nothing is stored, so every size costs the same.

    A Feistel network over a power of four that is walked until it lands inside (Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    words = struct.unpack(f"<{ROUNDS}L", hashlib.blake2b(repr(key).encode(), digest_size=4 * ROUNDS).digest())
    while True:
        left, right = index >> half, index & (1 << half) - 1
        for word in words:
            left, right = right, left ^ _mixed(right << 32 | word) >> 64 - half
        index = left << half | right
        if index < size:
            return index


def prepare(data: DataConfig, tokenizer: Tokenizer, cache: Path, base: Path, deep: bool = False) -> Dataset:
    """The dataset of a run: text is tokenised once and kept in the cache, token shards are taken as they are.

    `deep` compares the hash of every shard, not its size alone. Raises `SpecError` for what cannot be trained on.
    """
    opened = _Opener(data, tokenizer, cache, base, deep)
    train, validation = tuple(opened.windows(held_out=False)), tuple(opened.windows(held_out=True))
    _refuse_short(data, base, train, validation)
    hashes = [[shard.sha256 for part in windows.parts for shard in part.shards] for windows in (*train, *validation)]
    return Dataset(
        train=Samples(train, tuple(source.weight for source in data.train)),
        validation=Samples(validation, (1.0,) * len(validation)),
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


def holds(folder: Path, wanted: str, deep: bool = False) -> bool:
    """Whether whole shards lie in a folder, made from what the key `wanted` stands for."""
    try:
        return verify(folder, deep).key == wanted
    except SpecError:
        return False


@dataclass(frozen=True)
class _Opener:
    """Finds the tokens of every source, those of its text in the cache and those of shards where they lie."""

    data: DataConfig
    tokenizer: Tokenizer
    cache: Path
    base: Path
    deep: bool

    def windows(self, held_out: bool) -> Iterator[Windows]:
        """The sequences of each source, either those to train on or those to validate with."""
        data, number = self.data, count()
        for source in data.validation or data.train if held_out else data.train:
            folder = shard_folder(source, self.base)
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
        return {shard_folder(source, self.base) for source in self.data.train}

    @cached_property
    def _kept(self) -> Path:
        texts = Texts(self.data, self.base)
        return write(texts, self.tokenizer, self.cache / "shards" / key(texts, self.tokenizer), self.deep)

    @cached_property
    def _own(self) -> Manifest:
        return verify(self._kept)

    def _given(self, folder: Path, source: Source) -> Manifest:
        manifest = verify(folder, self.deep)
        if manifest.tokenizer != self.tokenizer.digest:
            told = f"written with another tokenizer, of {manifest.vocab} pieces; the run's has {self.tokenizer.vocab}"
            raise refuse(told, folder, hint=f"tokenizer: {{path: {source.path}/{MODEL}}}")
        return manifest


def _refuse_short(data: DataConfig, base: Path, train: tuple[Windows, ...], validation: tuple[Windows, ...]) -> None:
    for source, windows in zip(data.train, train, strict=True):
        if not windows.tokens:
            raise refuse("no text is left to train on: all of it is held out", base / source.name)
        if not len(windows):
            raise refuse(_short("training", windows.tokens, data.seq), base / source.name)
    place, tokens = base / (data.validation or data.train)[0].name, sum(windows.tokens for windows in validation)
    if not tokens:
        raise refuse("no text is held out", place, hint="give `validation` sources, or `held_out` above 0")
    if not any(map(len, validation)):
        raise refuse(_short("held-out", tokens, data.seq), place)


def _short(kind: str, tokens: int, seq: int) -> str:
    return f"the {kind} text has {tokens} tokens, one sequence takes {seq + 1}"


def _fill(folder: Path, texts: Texts, tokenizer: Tokenizer) -> None:
    (folder / MODEL).write_bytes(tokenizer.model_bytes)
    with _progress(texts) as advance:
        write_part = partial(_part, folder, tokenizer, advance)
        train = [write_part(f"train-{at}", source, texts.training(source)) for at, source in enumerate(texts.train)]
        validation = [
            write_part(f"validation-{at}", source, texts.held_out(at)) for at, source in enumerate(texts.validation)
        ]
    manifest = Manifest(
        format=FORMAT,
        key=key(texts, tokenizer),
        tokenizer=tokenizer.digest,
        vocab=tokenizer.vocab,
        dtype=_dtype(tokenizer),
        train=train,
        validation=validation,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))


def _dtype(tokenizer: Tokenizer) -> Literal["<u2", "<u4"]:
    return "<u2" if tokenizer.vocab <= 2**16 else "<u4"


def _part(
    folder: Path,
    tokenizer: Tokenizer,
    advance: Callable[[int], None],
    name: str,
    source: Source,
    documents: Iterator[Document],
) -> Part:
    told = Counter(documents=0, bytes=0)
    shards = write_shards(folder, name, _tokenised(documents, tokenizer, told, advance))
    return Part(source=source.name, tokens=sum(shard.tokens for shard in shards), shards=shards, **told)


def _tokenised(
    documents: Iterator[Document], tokenizer: Tokenizer, told: Counter[str], advance: Callable[[int], None]
) -> Iterator[Tokens]:
    """The ids of each document with the end symbol behind them; `told` counts documents and bytes on the way."""
    dtype = np.dtype(_dtype(tokenizer))
    for texts in _batches(documents):
        size = sum(len(text.encode()) for text in texts)
        told.update(documents=len(texts), bytes=size)
        for ids in tokenizer.encode_all(texts):
            ids.append(tokenizer.end)
            yield np.array(ids, dtype)
        advance(size)


def _batches(documents: Iterator[Document]) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for document in documents:
        texts.append(document.text)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


@contextmanager
def _progress(texts: Texts) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr, counting bytes of text; elsewhere nothing."""
    console = Console(stderr=True)
    columns = TextColumn("tokenising"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=texts.size)
        yield lambda size: progress.advance(task, size)


def _mixed(word: int) -> int:
    """64 bits, each of which depends on all 64 of `word`: the finaliser of SplitMix64."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    return word ^ word >> 31

"""Sequences of tokens in an order that a seed and an index decide."""

import hashlib
import struct
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from runners.cache import Part, Tokens, total

if TYPE_CHECKING:
    from torch import Tensor

TURNS = 1024  # sequences within which several sources take turns at random
ROUNDS = 12  # of the Feistel network that shuffles; with half as many, small shuffles are visibly uneven
WORD = 2**64 - 1
NO_END = -1  # stands for no token, so that a sequence is one document


@dataclass(frozen=True)
class Windows:
    """The sequences of one source: `seq + 1` tokens each, the last of one being the first of the next."""

    parts: list[Part]
    shards: tuple[Tokens, ...]
    seq: int

    @property
    def tokens(self) -> int:
        """Tokens of the source, document ends counted."""
        return total(self.parts).tokens

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(((len(shard) - 1) // self.seq for shard in self.shards), initial=0))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Tokens:
        shard = bisect_right(self._ends, index) - 1
        start = (index - self._ends[shard]) * self.seq
        return self.shards[shard][start : start + self.seq + 1]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run has drawn from one source; `epochs` counts how often its text was gone through."""

    source: str
    sequences: int
    tokens: int
    epochs: float

    def __str__(self) -> str:
        return f"{self.source}: {self.tokens:,} tokens, {self.epochs:.2f} times its text"


@dataclass(frozen=True)
class Samples:
    """Sequences by their global index: in the order of the text, or shuffled without end once there is a seed.

    What stands at an index depends on the seed and the index alone, so an integer is all that a resumed run needs.
    `end` is the token behind every document.
    """

    sources: tuple[Windows, ...]
    weights: tuple[float, ...]
    seed: int | None = None
    end: int = NO_END

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

    def batch_with_documents(self, first: int, count: int) -> tuple["Tensor", "Tensor"]:
        """What `batch` gives, and for each of its first `seq` tokens the document it stands in: int64 [count, seq].

        Documents are numbered within the sequence, 0, 1, 2, ...; the token that ends a document is the last of it.
        """
        tokens = self.batch(first, count)
        ends = (tokens[:, :-1] == self.end).long()
        return tokens, ends.cumsum(1) - ends

    def seen(self, count: int) -> tuple[Seen, ...]:
        """What the first `count` sequences hold of each source, in the order of the sources."""
        return tuple(map(_seen, self.sources, self._counts(count)))

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

    def _counts(self, count: int) -> list[int]:
        """How many of the first `count` sequences fall to each source; whole blocks of turns need no counting."""
        counts: list[int] = []
        last = 0 if self.seed is None else count % TURNS
        left = count - last
        for windows, share in zip(self.sources, self._shares, strict=True):
            drawn = left * share.numerator // share.denominator
            counts.append(min(left, len(windows)) if self.seed is None else drawn)
            left -= counts[-1]
        for index in range(count - last, count):
            counts[self._turn(index)[0]] += 1
        return counts


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


def _mixed(word: int) -> int:
    """64 bits, each of which depends on all 64 of `word`: the finaliser of SplitMix64."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & WORD
    return word ^ word >> 31


def _seen(windows: Windows, sequences: int) -> Seen:
    source = total(windows.parts).source
    return Seen(source, sequences, sequences * windows.seq, sequences / max(1, len(windows)))

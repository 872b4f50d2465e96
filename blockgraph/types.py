"""What an edge carries: sizes, a kind of number, and which tokens it may have seen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from blockgraph.dims import Size
from blockgraph.errors import OpError

Kind = Literal["float", "int"]

TOKENS = Size.symbol("seq")  # the axis along which causality is proved
_TOKEN_NAMES = TOKENS.names


class Flow(Enum):
    """Which tokens an entry of a value may depend on; a causal output is neither `PAIRS` nor `ALL`."""

    PAST = "position t has seen tokens up to t"
    PAIRS = "entry (t, s) has seen tokens up to the later of t and s"
    MASKED = "pairs, and entry (t, s) is minus infinity for every s after t"
    WEIGHTS = "row t has seen tokens up to t, and is zero for every s after t"
    ALL = "may have seen later tokens"


@dataclass(frozen=True, slots=True)
class Type:
    """Sizes of the axes in order, whether entries are real numbers or indices, and the flow of tokens.

    Indices are `below` a size, where that is known.
    """

    sizes: tuple[Size, ...]
    kind: Kind = "float"
    flow: Flow = Flow.PAST
    below: Size | None = None

    @property
    def last(self) -> Size:
        """Size of the last axis, the features of an activation."""
        return self.sizes[-1]

    @property
    def entries(self) -> Size:
        """Number of entries, the product of all sizes."""
        total = Size.constant(1)
        for size in self.sizes:
            total = total * size
        return total

    def with_last(self, size: Size) -> "Type":
        """The same value with another number of features."""
        return replace(self, sizes=(*self.sizes[:-1], size))

    def with_flow(self, flow: Flow) -> "Type":
        """The same value with another flow of tokens."""
        return replace(self, flow=flow)

    def mixed(self) -> "Type":
        """The same value after an operation that mixes the entries of the last axis; raises `OpError` for token ids."""
        kept = self.flow is Flow.PAST and _TOKEN_NAMES.isdisjoint(self.last.names)
        return self.real() if kept else self.real().with_flow(Flow.ALL)

    def real(self) -> "Type":
        """The same value; raises `OpError` for token ids."""
        if self.kind == "int":
            raise OpError("works on real numbers, found {}", self)
        return self

    @property
    def pairs(self) -> bool:
        """Whether there is an entry for each pair of tokens."""
        return self.sizes[-2:] == (TOKENS, TOKENS)

    @property
    def folded(self) -> bool:
        """Whether tokens share an axis with something else."""
        return any(size != TOKENS and not _TOKEN_NAMES.isdisjoint(size.names) for size in self.sizes)

    def settled(self) -> "Type":
        """The same value, known to be causal only while tokens have an axis of their own."""
        return self.with_flow(Flow.ALL) if self.folded and self.flow is Flow.PAST else self

    def bind(self, sizes: Mapping[str, Size]) -> "Type":
        """The same value with run-time dims replaced."""
        return replace(self, sizes=tuple(size.replace(sizes) for size in self.sizes))

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.sizes))}]"


def meet(*flows: Flow) -> Flow:
    """Flow of an entry-by-entry combination: equal flows stay, pairs absorb, the rest is not known to be causal."""
    kinds = set(flows)
    if len(kinds) == 1:
        return kinds.pop()
    if Flow.ALL in kinds or (Flow.PAST in kinds and kinds & {Flow.MASKED, Flow.WEIGHTS}):
        return Flow.ALL
    return Flow.PAIRS

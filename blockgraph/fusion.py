"""The contract of a fusion: an op that stands for a chain of others, and the words in which it is chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from blockgraph.graph import Decision, Graph, Node, Ref
from blockgraph.op import Op, Site

__all__ = ["Decision", "Fusion", "Step", "Target"]


@dataclass(frozen=True, slots=True)
class Step:
    """One place in a chain: the ops that may stand there, and whether it may stay empty or hold several."""

    ops: tuple[type[Op], ...]
    optional: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where a module will run, as far as that is known: tokens of a sequence, precision, kind of device.

    `compiled` says whether torch.compile takes the blocks, `native` whether kernels in C++ can be built for this CPU.
    """

    seq: int | None = None
    precision: Literal["bf16", "fp32"] | None = None
    device: str | None = None
    compiled: bool = False
    native: bool = False


class Fusion(Op):
    """An op that a pass puts in the place of a chain that fits its pattern; no spec can name it.

    Each node of the chain reads the value of the one before, and nobody else does. What a kernel does not give of the
    values between can be computed again, for the last queries or for some at a time: ports `queries` and `keys`.
    """

    pattern: ClassVar[tuple[Step, ...]]
    queries: ClassVar[str]
    keys: ClassVar[str]

    @classmethod
    def of(cls, chain: Sequence[Node], graph: Graph) -> "tuple[Fusion, Mapping[str, Ref]]":
        """The op that computes what the chain does, and its inputs by port; raises `OpError` when there is none."""
        raise NotImplementedError(cls.name)

    def recording(self, site: Site, first: Node, row: str, *tensors: str) -> str:
        """Text of the op which also writes what the chain's first node records of every query to a row, if it can."""
        return ""

    def recording_rows(self, site: Site, rows: Mapping[str, str], *tensors: str) -> str:
        """Text that writes what the chain's nodes record of the last queries to rows by quantity, if there is such."""
        return ""

    def lacks(self, target: Target) -> str:
        """Why the op cannot run there; empty when it can."""
        raise NotImplementedError(self.name)

    def merit(self, target: Target) -> tuple[int, str]:
        """How good the op is there, next to others for the same chain, and why; 0 where the chain itself is better."""
        raise NotImplementedError(self.name)

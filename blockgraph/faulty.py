"""A stand-in for an op whose line is at fault, so that the rest of a file can still be checked."""

from typing import ClassVar

from blockgraph.errors import Told
from blockgraph.op import Op, Style
from blockgraph.types import Type


class Faulty(Op):
    """The op of a node of which only what it reads and who reads it is known; nothing follows from it."""

    name: ClassVar = "?"
    style: ClassVar = Style("reshape")
    example: ClassVar = ""

    def infer(self, *values: Type) -> Type:
        """Nothing, without another word."""
        raise Told

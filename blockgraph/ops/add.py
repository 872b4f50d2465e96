"""Sum of values: the residual connection."""

from dataclasses import replace
from typing import ClassVar

from blockgraph.errors import OpError
from blockgraph.op import Op, Site, Style
from blockgraph.types import Type, meet


class Add(Op):
    """`a + b + ...`; all inputs have the same sizes, nothing is broadcast. [...] -> [...]."""

    name: ClassVar = "add"
    style: ClassVar = Style("residual", "+")
    incremental: ClassVar = True
    example: ClassVar = "add_attn: {op: add, in: [x, x]}"

    def infer(self, *x: Type) -> Type:
        """The common type."""
        return alike(x)

    def lower(self, site: Site, *x: str) -> str:
        """Plain additions, from left to right."""
        return " + ".join(x)


def alike(x: tuple[Type, ...]) -> Type:
    """The one type that all inputs of an entry-by-entry op share; raises `OpError` where sizes or kinds differ."""
    if len(x) < 2:
        raise OpError("combines two or more values, found one")
    for other in x[1:]:
        if other.sizes != x[0].sizes:
            raise OpError("sizes differ: {} and {}", x[0], other)
        if other.kind != x[0].kind:
            raise OpError("real numbers and indices differ: {} and {}", x[0], other)
    return replace(x[0], flow=meet(*(value.flow for value in x)), below=None)

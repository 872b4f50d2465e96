"""What the lowerings of the attention core share. Axes: B batch, H heads, T queries, S keys, K features of a head."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import ClassVar, Self

from blockgraph.dims import LAYER, Number, Size, number_of
from blockgraph.errors import OpError
from blockgraph.fusion import Fusion, Step
from blockgraph.graph import Graph, Node, Ref
from blockgraph.op import Site, Style
from blockgraph.ops.causal_mask import CausalMask
from blockgraph.ops.matmul import Matmul
from blockgraph.ops.scale import Scale
from blockgraph.ops.soft_cap import SoftCap
from blockgraph.ops.soft_clip import SoftClip
from blockgraph.ops.soft_temp import SoftTemp
from blockgraph.ops.softmax import Softmax
from blockgraph.types import Flow, Type

LONG = 1024  # tokens from which fused kernels are faster than the chain on the CPU (docs/log.md, attention core)
LONG_NATIVE = 128  # those from which the kernel in C++ is


class Attention(Fusion):
    """`clip(softmax(mask(cap * tanh(factors * q k / cap)))) v` (2410.16682, sections 2 and 4.2 to 4.4).

    q [B, H, T, K], k [B, H, S, K], v [B, H, S, K] -> [B, H, T, K]. Factors behind the cap are part of the cap and of
    the factors, because `b * cap * tanh(f * x / cap)` is `cap' * tanh(f' * x / cap')` with both times b.
    """

    style: ClassVar = Style("softmax", "attention")
    example: ClassVar = ""
    pattern: ClassVar = (
        Step((Matmul,)),
        Step((Scale, SoftTemp, SoftCap), optional=True, repeats=True),
        Step((CausalMask,), optional=True),
        Step((Softmax,)),
        Step((SoftClip,), optional=True),
        Step((Matmul,)),
    )

    queries: ClassVar = "q"
    keys: ClassVar = "k"

    factors: dict[str, Number]
    cap: dict[str, Number]
    clip: dict[str, Number]
    unsigned: list[str]
    causal: bool
    window: Size | None

    @classmethod
    def of(cls, chain: Sequence[Node], graph: Graph) -> tuple[Self, Mapping[str, Ref]]:
        """The chain's numbers, and its queries, keys and values."""
        first, *middle, last = chain
        inputs = {"q": first.inputs["a"], "k": first.inputs["b"], "v": last.inputs["b"]}
        for node in middle:
            if len(node.inputs) > 1:
                raise OpError(f"{node.path} reads {', '.join(map(str, [*node.inputs.values()][1:]))} too")
            if node.params:
                trained = ", ".join(param.name for param in node.params)
                raise OpError(f"{node.path} trains a {trained}, for which the kernels have no place")
        texts = {op.lower for step in cls.pattern for op in step.ops}
        for node in chain:
            if type(node.op).lower not in texts:  # of a user's own op that derives from one of these
                raise OpError(f"{node.path} ({node.op.name}) computes something else, which the kernels do not know")
        _refuse_other_products(first, last, middle[-1], graph.type_of(inputs["q"]))
        factors, cap, unsigned = _factors_and_cap(chain)
        masks = [node.op for node in middle if isinstance(node.op, CausalMask)]
        clip = next((_numbers(node) for node in middle if isinstance(node.op, SoftClip)), {})
        window = masks[0].window if masks else None
        op = cls(factors=factors, cap=cap, clip=clip, unsigned=unsigned, causal=bool(masks), window=window)
        return op, inputs

    def infer(self, q: Type, k: Type, v: Type) -> Type:
        """The queries' type with the features of the values; causal where all three are and the mask is."""
        past = self.causal and (q.flow, k.flow, v.flow) == (Flow.PAST, Flow.PAST, Flow.PAST)
        return q.with_last(v.last).with_flow(Flow.PAST if past else Flow.ALL)

    def flops(self, q: Type, k: Type, v: Type) -> Size:
        """Those of the two products, masked scores included, as the nodes by themselves count them."""
        keys = k.sizes[-2]
        return q.entries * keys * 2 + q.with_last(keys).entries * v.last * 2

    def numbers(self) -> dict[str, Number]:
        """All numbers of the chain, by node and field."""
        return self.factors | self.cap | self.clip

    def layered(self) -> list[str]:
        """Names of the numbers that differ between layers."""
        return [name for name, number in self.numbers().items() if LAYER in number.free]

    def own(self, node: Node) -> list[Number]:
        """The factors that are a node's of the chain."""
        return [self.factors[name] for name in _numbers(node)]

    def product(self, site: Site, numbers: Iterable[Number]) -> str:
        """Text of a product, in which what is known is one literal."""
        given = list(numbers)
        known = prod(number.value for number in given if number.value is not None)
        open_ = [site.number(number) for number in given if number.value is None]
        return " * ".join([*([site.number(number_of(known))] if known != 1.0 or not open_ else []), *open_])


def _refuse_other_products(first: Node, last: Node, weights: Node, q: Type | None) -> None:
    """Refuse a chain whose products are not `q k^T` and `weights v` with one head axis."""
    assert isinstance(first.op, Matmul)
    assert isinstance(last.op, Matmul)
    if first.op.transpose != "b":
        raise OpError(f"{first.path} does not transpose its b")
    if last.op.transpose or last.op.scale or last.inputs["a"].owner != weights.path:
        raise OpError(f"{last.path} is not the plain product of weights and values")
    if q is None or len(q.sizes) != 4:
        raise OpError(f"{first.path} does not read [batch, heads, seq, features]")


def _factors_and_cap(chain: Sequence[Node]) -> tuple[dict[str, Number], dict[str, Number], list[str]]:
    """Every factor on the scores by name, the cap with the factors behind it, and the factors that may be negative."""
    factors: dict[str, Number] = {}
    cap: dict[str, Number] = {}
    unsigned: list[str] = []
    for node in chain[:-1]:
        found = _numbers(node)
        if isinstance(node.op, SoftCap):
            if cap:
                raise OpError(f"{node.path} is a second cap")
            cap |= found
        elif isinstance(node.op, Matmul | Scale | SoftTemp):
            factors |= found
            cap |= found if cap else {}
        if isinstance(node.op, Matmul | Scale):
            unsigned += [node.path for number in found.values() if number.value is None or number.value <= 0]
    return factors, cap, unsigned


def _numbers(node: Node) -> dict[str, Number]:
    """The numbers of a node under names that no other node of the graph has."""
    word = node.path.replace(".", "_").replace("@", "_")
    return {f"{word}_{name}": number for name, number in node.op.numbers().items()}

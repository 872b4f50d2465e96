"""The attention core as torch's own fused kernel."""

from typing import ClassVar

from blockgraph.dims import LAYER
from blockgraph.fused.attention import LONG, Attention
from blockgraph.fusion import Target
from blockgraph.op import Site


class Sdpa(Attention):
    """`softmax(mask(factors * q k)) v` by `F.scaled_dot_product_attention`. q, k, v [...] -> [...].

    Scores stay in fp32, so in bf16 the errors are smaller than the chain's.
    """

    name: ClassVar = "sdpa"

    def lacks(self, target: Target) -> str:
        """What torch's kernel has no argument for."""
        found = {"cap": bool(self.cap), "clip": bool(self.clip), "window": self.window is not None}
        return next((f"torch's kernel has no {what}" for what, there in found.items() if there), "")

    def merit(self, target: Target) -> tuple[int, str]:
        """Best on CUDA and in fp32, and second to blockwise in bf16 on the CPU."""
        if target.device == "cuda":
            return 4, "torch's own kernel"
        if target.seq is None:
            return 0, "the length is not known"
        if target.seq < LONG:
            return 0, f"its backward pass is slower below {LONG} tokens"
        return (4, "the fastest in fp32") if target.precision == "fp32" else (2, "torch's own kernel")

    def lower(self, site: Site, q: str, k: str, v: str) -> str:
        """One call; factors of the layer, which are tensors, go into q."""
        layered = [number for number in self.factors.values() if LAYER in number.free]
        plain = [number for number in self.factors.values() if LAYER not in number.free]
        q = " * ".join([q, *(site.number(number) for number in layered)])
        causal = ", is_causal=True" if self.causal else ""
        return f"F.scaled_dot_product_attention({q}, {k}, {v}{causal}, scale={self.product(site, plain)})"

"""The attention core as torch's FlexAttention, on CUDA."""

from typing import ClassVar

from blockgraph.fused.attention import Attention
from blockgraph.fusion import Target
from blockgraph.op import Site


class Flex(Attention):
    """`softmax(mask(cap * tanh(factors * q k / cap))) v`, causal, by `flex_attention`. q, k, v [...] -> [...].

    It trains on CUDA alone: on the CPU torch 2.13 has no backward pass for it.
    """

    name: ClassVar = "flex"

    def lacks(self, target: Target) -> str:
        """CUDA, a mask, or numbers that its kernel can hold as constants."""
        if target.device == "cpu":
            return "it trains on CUDA alone"
        if self.clip:
            return "a clip follows the softmax, and it changes scores before it"
        if not self.causal:
            return "there is no causal mask"
        layered = self.layered()
        return f"{layered[0]} is another number in each layer" if layered else ""

    def merit(self, target: Target) -> tuple[int, str]:
        """Best for caps and windows on CUDA, where it is compiled."""
        if target.device != "cuda":
            return 0, "the device is not known to be CUDA"
        return (3, "the one fused kernel with a cap or a window") if target.compiled else (0, "it has to be compiled")

    def lower(self, site: Site, q: str, k: str, v: str) -> str:
        """One call of the kernel."""
        words = [f"scale={self.product(site, self.factors.values())}"]
        words += [f"cap={self.product(site, self.cap.values())}"] * bool(self.cap)
        words += [f"window={site.size(self.window)}"] if self.window else []
        return f"flex({q}, {k}, {v}, {', '.join(words)})"

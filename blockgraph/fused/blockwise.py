"""The attention core as attention in blocks of scores, with memory that grows with the length alone."""

from collections.abc import Mapping
from typing import ClassVar

from blockgraph.fused.attention import LONG, LONG_NATIVE, Attention
from blockgraph.fusion import Target
from blockgraph.graph import Node
from blockgraph.op import Site


class Blockwise(Attention):
    """`clip(softmax(mask(cap * tanh(factors * q k / cap)))) v`, causal, in blocks. q, k, v [...] -> [...].

    Scores stay in fp32, so in bf16 the errors are smaller than the chain's.
    """

    name: ClassVar = "blockwise"

    def lacks(self, target: Target) -> str:
        """A mask, or the certainty that scores rise with the products, so that the largest come from the largest."""
        if not self.causal:
            return "there is no causal mask"
        return f"the factor of {self.unsigned[0]} is not known to be positive" if self.unsigned else ""

    def merit(self, target: Target) -> tuple[int, str]:
        """Best in bf16 on the CPU, and the only one there with caps, clips and windows."""
        if target.device == "cuda":
            return 0, "not measured on CUDA"
        if target.seq is None:
            return 0, "the length is not known"
        native = target.native and target.device == "cpu" and target.precision == "bf16"
        least = LONG_NATIVE if native else LONG
        if target.seq < least:
            return 0, f"its blocks are slower than the chain below {least} tokens"
        where = "on this CPU" if native else "here" if self.cap or self.clip or self.window else "in bf16"
        return 3, f"the fastest {where} from {least} tokens on"

    def lower(self, site: Site, q: str, k: str, v: str) -> str:
        """One call of the kernel."""
        return f"blockwise({', '.join([q, k, v, *self._words(site)])})"

    def recording(self, site: Site, first: Node, row: str, *tensors: str) -> str:
        """The largest product is known on the way; but with a window it is not that of all keys."""
        words = [row, self.product(site, self.own(first)), *tensors, *self._words(site)]
        return "" if self.window else f"blockwise_recorded({', '.join(words)})"

    def recording_rows(self, site: Site, rows: Mapping[str, str], *tensors: str) -> str:
        """Their scores are made again, in fp32 as the kernel's are; with a window they are the nodes'."""
        given = ", ".join(f'"{quantity}": {row}' for quantity, row in rows.items())
        words = [f"{{{given}}}", *tensors, *self._words(site)]
        return "" if self.window else f"record_rows({', '.join(words)})"

    def _words(self, site: Site) -> list[str]:
        words = [f"scale={self.product(site, self.factors.values())}"]
        words += [f"cap={self.product(site, self.cap.values())}"] * bool(self.cap)
        words += [f"clip=({', '.join(site.number(number) for number in self.clip.values())})"] * bool(self.clip)
        return words + ([f"window={site.size(self.window)}"] if self.window else [])

"""The table of fusions, by the name of the lowering."""

from collections.abc import Mapping

from blockgraph.fused.blockwise import Blockwise
from blockgraph.fused.flex import Flex
from blockgraph.fused.sdpa import Sdpa
from blockgraph.fusion import Fusion

FUSIONS: Mapping[str, type[Fusion]] = {fusion.name: fusion for fusion in (Sdpa, Blockwise, Flex)}

__all__ = ["FUSIONS", "Fusion"]

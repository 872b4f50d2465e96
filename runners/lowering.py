"""How the attention of a run is computed: chosen once when the run begins, written down, and kept when it goes on."""

import json
from collections.abc import Mapping

from blockgraph.fused import FUSIONS
from blockgraph.fused.attention import LONG_NATIVE
from blockgraph.fusion import Target
from blockgraph.graph import Graph
from blockgraph.passes import fuse
from runners.runfile import RunFile

KEY = "lowering"  # of the inputs that a checkpoint keeps


def lowered(
    run: RunFile, graph: Graph, device: str, compiled: bool, native: bool, before: Mapping[str, str] | None = None
) -> Graph:
    """The graph with its attention as `train.lowering` asks for, on a device of this kind.

    `native` says whether there is the kernel in C++, and `before` are the lowerings that the run began with, by core.
    Raises `SpecError` for one that cannot be had.
    """
    target = Target(run.config.data.seq, run.config.train.precision, device, compiled, native)
    return fuse(graph, FUSIONS, before or run.config.train.lowering, target)


def has_native(run: RunFile, device: str, built: bool) -> bool:
    """Whether `auto` may take the kernel in C++ here; with `built` it is there, built in seconds if need be."""
    train = run.config.train
    if (device, train.precision, train.lowering) != ("cpu", "bf16", "auto") or run.config.data.seq < LONG_NATIVE:
        return False
    from blockgraph.kernels.native import can_be_native, is_built  # torch, which plans for other devices do without

    return is_built() if built else can_be_native()


def recorded(graph: Graph) -> dict[str, str]:
    """What a checkpoint keeps of the choices."""
    return {KEY: json.dumps({decision.core: decision.lowering for decision in graph.decisions})}


def begun_with(inputs: Mapping[str, str]) -> dict[str, str]:
    """The choices that a checkpoint kept."""
    found: dict[str, str] = json.loads(inputs[KEY])
    return found

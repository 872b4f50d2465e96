"""How the attention of a run is computed: chosen once when the run begins, written down, and kept when it goes on."""

import json
from collections.abc import Mapping

from blockgraph.fused import FUSIONS
from blockgraph.fusion import Target
from blockgraph.graph import Graph
from blockgraph.passes import fuse
from runners.runfile import RunFile

KEY = "lowering"  # of the inputs that a checkpoint keeps


def lowered(run: RunFile, graph: Graph, device: str, compiled: bool, before: Mapping[str, str] | None = None) -> Graph:
    """The graph with its attention as `train.lowering` asks for, on a device of this kind.

    `before` are the lowerings that the run began with, by core. Raises `SpecError` for one that cannot be had.
    """
    precision = run.config.train.precision
    native = device == "cpu" and precision == "bf16" and _can_be_native()
    target = Target(run.config.data.seq, precision, device, compiled, native)
    return fuse(graph, FUSIONS, before or run.config.train.lowering, target)


def _can_be_native() -> bool:
    from blockgraph.kernels.native import can_be_native  # torch, which plans for other devices do without

    return can_be_native()


def recorded(graph: Graph) -> dict[str, str]:
    """What a checkpoint keeps of the choices."""
    return {KEY: json.dumps({decision.core: decision.lowering for decision in graph.decisions})}


def begun_with(inputs: Mapping[str, str]) -> dict[str, str]:
    """The choices that a checkpoint kept."""
    found: dict[str, str] = json.loads(inputs[KEY])
    return found

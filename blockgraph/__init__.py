"""A Transformer block as one YAML graph: checked, drawn, compiled, trained."""

from typing import Any

from blockgraph.canonical import digest, text
from blockgraph.cost import Cost
from blockgraph.cost import cost as _cost
from blockgraph.errors import SpecError
from blockgraph.graph import Graph
from blockgraph.load import Setting, load
from blockgraph.ops import OPS

__all__ = ["OPS", "Cost", "Graph", "SpecError", "compile", "cost", "digest", "load", "text"]


def compile(spec: Graph | str, *, seed: int = 0, **settings: Setting) -> Any:
    """An `nn.Module` of a checked graph, or of a spec by name or path with its settings.

    `seed` decides the initial values; inside `with torch.device("meta")` nothing is allocated. Raises `SpecError`.
    """
    from blockgraph.model import build  # torch is imported only by those who compile

    return build(_graph(spec, settings), seed)


def cost(spec: Graph | str, **settings: Setting) -> Cost:
    """Parameters and matrix-product FLOPs. Raises `SpecError`."""
    return _cost(_graph(spec, settings))


def _graph(spec: Graph | str, settings: dict[str, Any]) -> Graph:
    return spec if isinstance(spec, Graph) else load(spec, **settings)

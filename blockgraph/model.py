"""Text of a compiled graph to a torch module."""

import hashlib
import linecache
import sys
from types import ModuleType
from typing import Any

import torch

from blockgraph.graph import Graph
from blockgraph.lower import lower


def build(graph: Graph, seed: int = 0) -> Any:
    """The graph as an `nn.Module`, with its initial values unless it is made on the meta device.

    A block maps its inputs to its outputs; a model maps tokens [batch, seq] of int64 to logits [batch, seq, vocab].
    The module also has `source`, its Python text, and `graph`.
    """
    source = lower(graph)
    on_meta = torch.get_default_device().type == "meta"
    made = _imported(source).build(None if on_meta else seed)
    made.source, made.graph = source, graph
    return made


def _imported(source: str) -> ModuleType:
    """The text as a module that tracebacks, `inspect` and `copy` can find; equal texts give the same module."""
    name = f"blockgraph_compiled_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = f"<{name}>"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    sys.modules[name] = module
    # The text holds only names that the schema let through and the package's own kernels.
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module

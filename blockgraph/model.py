"""Text of a compiled graph to a torch module."""

import copyreg
import hashlib
import linecache
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import torch

from blockgraph.errors import Place
from blockgraph.graph import Graph
from blockgraph.kernels.base import GraphModule
from blockgraph.lower import NO_PROBES, lower
from blockgraph.probes import Probes
from blockgraph.recompute import NOTHING, refuse_unknown


class Model(GraphModule):
    """What `build` gives, for type checkers; its real class stands in the generated text."""

    source: str
    graph: Graph
    probes: Probes

    def extend(self, *inputs: Any) -> torch.Tensor:
        """`forward` of the tokens behind those in the cache, which is the last argument."""
        raise NotImplementedError


def build(
    graph: Graph,
    seed: int = 0,
    probes: Probes = NO_PROBES,
    recompute: Sequence[str] = NOTHING,
    cached: bool = False,
) -> Model:
    """The graph as an `nn.Module`, with its initial values unless it is made on the meta device.

    A block maps its inputs to its outputs; a model maps tokens [batch, seq] of int64 to logits [batch, seq, vocab].
    The module also has `source`, its Python text, `graph` and `probes`, what it can record. `recompute` names nodes and
    groups of the blocks whose values the backward pass computes again; all of a block, for one empty name. One that is
    `cached` takes new tokens alone by `extend`. Raises `SpecError` for a name that no block has, when a user's op
    cannot be lowered, or for a cache that is not known to be right.
    """
    refuse_unknown(graph, recompute, Place("recompute", 0))
    source = lower(graph, probes, tuple(recompute), cached)
    on_meta = torch.get_default_device().type == "meta"
    made = cast(Model, _imported(source).build(None if on_meta else seed))
    made.source, made.graph, made.probes = source, graph, probes
    return made


def _imported(source: str) -> ModuleType:
    """The text as a module that tracebacks, `inspect`, `copy` and `pickle` can find; equal texts give the same one."""
    name = f"blockgraph_compiled_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = f"<{name}>"
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    # The text holds only names that the schema let through and the package's own kernels.
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    sys.modules[name] = module
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module) and kind.__module__ == name:
            copyreg.pickle(kind, _reduced)
    return module


def _reduced(module: torch.nn.Module) -> tuple[Any, ...]:
    """A module as its text and its state, so that a process that has never compiled it can unpickle it."""
    kind = type(module)
    lines = linecache.getlines(sys.modules[kind.__module__].__file__ or "")
    return _restored, ("".join(lines), kind.__name__), module.__getstate__()  # type: ignore[no-untyped-call]


def _restored(source: str, name: str) -> torch.nn.Module:
    kind = getattr(_imported(source), name)
    return cast(torch.nn.Module, kind.__new__(kind))

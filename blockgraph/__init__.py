"""A Transformer block as one YAML graph: checked, drawn, compiled, trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockgraph.canonical import digest, text
from blockgraph.cost import Cost
from blockgraph.cost import cost as _cost
from blockgraph.errors import SpecError
from blockgraph.fused import FUSIONS
from blockgraph.graph import Graph
from blockgraph.load import Setting, edited_text, load
from blockgraph.losses import with_losses
from blockgraph.ops import OPS
from blockgraph.passes import fuse
from blockgraph.probes import chosen, recorded
from blockgraph.recompute import EVERYTHING, NOTHING

if TYPE_CHECKING:
    from blockgraph.compare import Diff

__all__ = [
    "EVERYTHING",
    "OPS",
    "Cost",
    "Graph",
    "SpecError",
    "compile",
    "cost",
    "diff",
    "digest",
    "edit",
    "load",
    "render",
    "text",
]


def compile(
    spec: Graph | str,
    *,
    seed: int = 0,
    lowering: str = "auto",
    probes: Sequence[str] = (),
    recompute: Sequence[str] = NOTHING,
    cached: bool = False,
    losses: bool = False,
    **settings: Setting,
) -> Any:
    """An `nn.Module` of a checked graph, or of a spec by name or path with its settings.

    `seed` decides the initial values; inside `with torch.device("meta")` nothing is allocated. `lowering` is how the
    attention core is computed: `explicit` (node by node, and what `auto` takes, which does not know the length here),
    `sdpa`, `blockwise` or `flex`. `probes` names what the module can record, as `log.probes` of a run file does.
    `recompute` names nodes and groups of the blocks, such as `attn` or `ff.fc1`, whose values are not kept for the
    backward pass but computed there again; `EVERYTHING` recomputes all inside the blocks. One that is `cached` also has
    `extend(tokens, cache)`, which takes the tokens behind those in a `blockgraph.kernels.cache.Cache`. With `losses` it
    puts out one value more where nodes add to the loss of a run: their sum, a number to add to your own. Raises
    `SpecError`, also for a core that cannot be lowered so and a cache that is not known to be right.
    """
    from blockgraph.model import build  # torch is imported only by those who compile

    graph = _graph(spec, settings)
    graph = with_losses(graph) if losses else graph
    return build(fuse(graph, FUSIONS, lowering), seed, recorded(graph, chosen(graph, probes)), recompute, cached)


def cost(spec: Graph | str, **settings: Setting) -> Cost:
    """Parameters and matrix-product FLOPs. Raises `SpecError`."""
    return _cost(_graph(spec, settings))


def render(spec: Graph | str, path: str | Path, **options: Any) -> Path:
    """Draw a spec to a file, in the format of its suffix: .svg .pdf .png .dot .mmd .tex; returns the path.

    `base` marks what the spec changes against another; `shapes`, `cost`, `title`, `legend`, `aligned` and `seq` are
    those of `blockgraph.drawing.render`, and what remains sets dims and slots. Raises `SpecError`.
    """
    from blockgraph import drawing  # only those who draw wait for it

    return drawing.render(spec, path, **options)


def diff(a: Graph | str, b: Graph | str, **settings: Setting) -> "Diff":
    """What two specs differ in: in words as text, in a notebook as figures side by side. Raises `SpecError`."""
    from blockgraph.compare import compare

    return compare(_graph(a, settings), _graph(b, settings))


def edit(spec: str | Path, *edits: str | Path) -> str:
    """The text of a spec with edits applied in order, all by name or path: `edit("llama3", "qk_norm", "soft_cap")`.

    Raises `SpecError` where the spec lacks a place that an edit goes to, or has all that it would bring.
    """
    return edited_text(spec, *edits).text


def _graph(spec: Graph | str, settings: dict[str, Any]) -> Graph:
    return spec if isinstance(spec, Graph) else load(spec, **settings)

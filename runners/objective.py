"""What the loss of a run is made from: the model's logits, or a head left open whose logits are made in parts."""

from dataclasses import dataclass, replace
from typing import Literal

from blockgraph.graph import Graph
from blockgraph.heads import Opened, open_head
from blockgraph.losses import has_losses, with_losses
from runners.chunked import chunked_loss
from runners.loss import Loss, loss_for, with_own
from runners.runfile import RunFile

FP32 = 4  # bytes
WHOLE_BYTES = 2**28  # of fp32 logits in a forward pass, up to which they are made whole


@dataclass(frozen=True)
class Objective:
    """The graph that is trained, how its loss is made and why so; `cap` is that of the logits of an open head.

    The graph puts out the sum of what its nodes add to the loss, if any do.
    """

    graph: Graph
    kind: Literal["plain", "chunked"]
    why: str
    cap: float | None = None

    def loss(self, z_loss: float, compiled: bool) -> Loss:
        """The loss of the graph's outputs and targets; `z_loss` is the weight of its second part."""
        own = chunked_loss(self.cap, compiled) if self.kind == "chunked" else loss_for(z_loss, compiled)
        return with_own(own) if has_losses(self.graph) else own


def objective(run: RunFile, graph: Graph) -> Objective:
    """What a run trains and by which loss.

    Raises `SpecError` when logits are to be made in parts and the head is none that can be left open.
    """
    found = _chosen(run, graph)
    return replace(found, graph=with_losses(found.graph))


def _chosen(run: RunFile, graph: Graph) -> Objective:
    """What `train.loss` asks for; `auto` makes logits in parts where whole ones would take much memory."""
    asked, size = run.config.train.loss, _bytes(run, graph)
    if asked == "plain":
        return Objective(graph, "plain", "as asked for")
    if asked == "auto" and size <= WHOLE_BYTES:
        return Objective(graph, "plain", f"auto: the logits of a micro-batch take {size / 2**20:,.1f} MiB")
    opened = open_head(graph)
    if isinstance(opened, Opened):
        why = f"auto: whole logits would take {size / 2**30:,.1f} GiB" if asked == "auto" else "as asked for"
        return Objective(opened.graph, "chunked", why, opened.cap)
    if asked == "chunked":
        raise run.refuse("train.loss", f"train.loss is chunked, but {opened}", "auto and plain make logits whole")
    return Objective(graph, "plain", f"auto: {opened}")


def _bytes(run: RunFile, graph: Graph) -> int:
    """Memory of the fp32 logits of a micro-batch."""
    kind = graph.type_of(next(iter(graph.outputs.values())))
    assert kind is not None
    return FP32 * run.config.train.micro * run.config.data.seq * (kind.last.known or 0)

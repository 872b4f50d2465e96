"""The cells of a study as trials: what was varied in each, at which size, and how it ended."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blockgraph.cost import cost
from blockgraph.errors import SpecError
from blockgraph.graph import Graph
from blockgraph.load import load
from blockgraph.op import Op
from runners import metrics, runfile, series
from runners.config import RunConfig
from runners.rundir import MODEL
from runners.series import Series
from runners.spec import graph_of
from runners.study import Cell, Study

LR, SEED, BLOCK = "optim.lr", "train.seed", "block"
ONLY = "as given"  # the size of a study that does not vary it


@dataclass(frozen=True)
class Trial:
    """One cell: `arm` is what was tried (block, z-loss, ...), `size` the model's, both in words of the study.

    `graph` is its model; `config` the whole run.
    """

    cell: Cell
    config: RunConfig
    graph: Graph
    arm: str
    size: str

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.config.optim.lr

    @property
    def seed(self) -> int:
        """Seed of the weights and of the data's order."""
        return self.config.train.seed

    @property
    def block(self) -> str:
        """Name of the block that the layers run."""
        return " · ".join(dict.fromkeys(block.name for node in self.graph.nodes.values() for block in node.blocks))

    @cached_property
    def parameters(self) -> int:
        """N of Wortsman et al.: parameters of the layers, without embedding and head."""
        rows = [row for row in cost(self.graph).rows if row.depth == 0]
        return sum(row.parameters for row in rows if row.node.blocks) or sum(row.parameters for row in rows)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(len(node.plan) for node in self.graph.nodes.values())

    @property
    def width(self) -> int:
        """`d_model`, the width of the residual stream; 0 for a model that calls it otherwise."""
        size = self.graph.dims.sizes.get("d_model")
        return size.known or 0 if size else 0

    @property
    def loss(self) -> float | None:
        """Final validation loss in nats per token; infinite where the run diverged, None where it is not over."""
        if self.cell.state == "diverged":
            return math.inf
        return float(self.cell.facts["val_loss"]) if self.cell.state == "finished" else None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Logged steps; none of a run that has not begun."""
        return metrics.rows(self.cell.metrics) if self.cell.metrics.exists() else []

    @property
    def initial(self) -> float | None:
        """Loss of the first step, before any update, in nats per token."""
        return next((row["loss"] for row in self.rows if row["step"] == 1), None)

    @cached_property
    def series(self) -> Series | None:
        """What the probes recorded; None for a run without them."""
        try:
            return series.load(self.cell.directory)
        except SpecError:
            return None


def trials(study: Study, ops: Mapping[str, type[Op]]) -> tuple[Trial, ...]:
    """The cells in the order of the study. Raises `SpecError` where a run file or a model of a cell cannot be read."""
    graphs: dict[str, Graph] = {}
    sizes = [axis for axis, values in study.axes.items() if _is_size(axis, values, study.points.get(axis, {}))]
    arms = [axis for axis in study.axes if axis not in (*sizes, LR, SEED)]
    found = []
    for cell in study.cells:
        run = runfile.load(cell.directory.with_name(f"{cell.name}.yaml"))
        key = repr((run.config.model, run.config.set))
        if key not in graphs:
            graphs[key] = _graph(cell.directory / MODEL, run, ops)
        arm = words_of(cell, arms) or _blocks(graphs[key])
        found.append(Trial(cell, run.config, graphs[key], arm, words_of(cell, sizes) or ONLY))
    return tuple(found)


def words_of(cell: Cell, axes: Iterable[str]) -> str:
    """A cell's values on some axes: words as they are, numbers with the axis they belong to."""
    return ", ".join(_word(axis, cell.settings[axis]) for axis in axes if axis in cell.settings)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Values in the order in which they come, each once."""
    return list(dict.fromkeys(values))


def _graph(model: Path, run: runfile.RunFile, ops: Mapping[str, type[Op]]) -> Graph:
    """The model as the run wrote it down; as its run file asks for it where it has not begun."""
    return load(str(model), ops=ops) if model.exists() else graph_of(run, ops, run.config.tokenizer.vocab)


def _is_size(axis: str, values: list[Any], points: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an axis varies a dim of the model: slots hold names, dims whole numbers."""
    if points:
        return any(_is_size(key.removeprefix("set."), [value], {}) for p in points.values() for key, value in p.items())
    return "." not in axis and all(isinstance(value, int) for value in values)


def _blocks(graph: Graph) -> str:
    """The arm of a study that varies none: the blocks of its model."""
    names = distinct(block.name for node in graph.nodes.values() for block in node.blocks)
    return ", ".join(names) or graph.name


def _word(axis: str, value: Any) -> str:
    if isinstance(value, str):
        return Path(value).stem if value.endswith((".yaml", ".yml")) else value
    name = axis.rpartition(".")[2]
    return f"{name} {value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else f"{name} {value}"

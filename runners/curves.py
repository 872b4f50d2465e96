"""Loss curves of runs as a figure with labelled axes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from runners.metrics import rows

# Okabe and Ito's colours in an order that also differs in grey; lines differ by dashes as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """One series of a run against the tokens it had seen, in millions."""

    tokens: list[float]
    values: list[float]


def curve(run: Path, key: str) -> Curve:
    """The rows of a run that hold `key`."""
    found: list[dict[str, Any]] = [row for row in rows(run / "metrics.jsonl") if row.get(key) is not None]
    return Curve([row["tokens"] / 1e6 for row in found], [row[key] for row in found])


def draw_losses(runs: Mapping[str, Path], path: Path) -> Path:
    """Training loss as lines and held-out loss as marks, one colour a run; written as the suffix of `path` says."""
    with plt.rc_context({"svg.hashsalt": "blockgraph", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        for index, (name, run) in enumerate(runs.items()):
            _draw_run(axes, name, run, COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)])
        axes.set_xlabel("training tokens (millions)")
        axes.set_ylabel("loss (nats per token)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)
        plt.close(figure)
    return path


def _draw_run(axes: Any, name: str, run: Path, colour: str, dash: str) -> None:
    train, held_out = curve(run, "loss"), curve(run, "val_loss")
    axes.plot(train.tokens, train.values, dash, color=colour, linewidth=1.4, label=f"{name}, training")
    axes.plot(
        held_out.tokens, held_out.values, "o", color=colour, markersize=6, markerfacecolor="white", markeredgewidth=1.6,
        label=f"{name}, held out",
    )  # fmt: skip

"""What a run measured at the nodes of its model, for the colours of a figure."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from blockgraph.errors import Place, Problem, SpecError, near_miss
from blockgraph.figure.heat import Measured
from runners import series
from runners.series import Series, layer_of


def measured(run: Path, quantity: str, layer: int | None = None, step: int | None = None) -> Measured:
    """A quantity such as `y.rms` of every node at a step, the last one unless given.

    Of several layers it is the largest value, unless one is asked for. Raises `SpecError` where the run has not
    recorded it, or not in that layer, or nothing up to that step.
    """
    found = series.load(run)
    columns = _columns(found, run, quantity, layer)
    rows = found.steps if step is None else found.steps[found.steps <= step]
    if not len(rows):
        raise _refuse(run, f"nothing was recorded up to step {step}", f"the first row is of step {found.steps[0]}")
    values = {path: _largest(found, names, len(rows)) for path, names in columns.items()}
    low, high = ends(values.values())
    where = "largest over the layers" if layer is None else f"layer {layer}"
    return Measured(values, f"{quantity} at step {rows[-1]}, {where}", low, high)


def ends(values: Iterable[float]) -> tuple[float, float]:
    """The smallest and the largest of the finite values; 0 and 1 where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def paths(name: str, quantity: str) -> tuple[str, ...]:
    """The nodes that a series belongs to: in the model, and in the block for one of a layer."""
    words = name.removesuffix(f".{quantity}").split(".")
    number = next((index for index, word in enumerate(words) if word.isdecimal()), None)
    if number is None:
        return (".".join(words),)
    inside = words[number + 1 :]
    return ".".join([*words[:number], *inside]), ".".join(inside)


def _columns(found: Series, run: Path, quantity: str, layer: int | None) -> dict[str, list[str]]:
    """Names of the series by the path of the node."""
    names = [name for name in found.names if name.endswith(f".{quantity}")]
    if not names:
        known = {name.rpartition(".")[2] for name in found.names} | {".".join(n.split(".")[-2:]) for n in found.names}
        raise _refuse(run, f"nothing was recorded as '{quantity}'", near_miss(quantity, known))
    kept = [name for name in names if layer is None or layer_of(name) == layer]
    if not kept:
        numbers = sorted({number for name in names if (number := layer_of(name)) is not None})
        raise _refuse(run, f"layer {layer} has no '{quantity}'", f"layers are {numbers[0]} to {numbers[-1]}")
    columns: dict[str, list[str]] = {}
    for name in kept:
        for path in paths(name, quantity):
            columns.setdefault(path, []).append(name)
    return columns


def _largest(found: Series, names: list[str], rows: int) -> float:
    """The largest of several series in the last of some rows that has a number."""
    values = np.stack([np.asarray(found[name][:rows], float) for name in names], axis=1)
    kept = values[~np.isnan(values).all(axis=1)]
    return float(np.nanmax(kept[-1])) if len(kept) else math.nan


def _refuse(run: Path, message: str, hint: str = "") -> SpecError:
    return SpecError([Problem(message, Place(str(run), 0), hint)])

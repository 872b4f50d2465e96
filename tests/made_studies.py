"""Studies made up for the tests of the report: directories as a sweep leaves them, with results that are known."""

import json
import math
import zlib
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from runners import runfile
from runners.series import INDEX, Column, Index

RULE = {"loss_above": None, "margin": 1.0, "window": 50, "spike": {"z": 8.0, "in_a_row": 0}}
RULE |= {"val_above": None, "val_margin": 0.5}
TINY = {"set.d_model": 16, "set.n_layers": 2, "set.n_heads": 2}
INITIAL = 5.0  # nats, the loss before any update
STEPS = 100
LOGIT = "bmm1.max"
N_OF = {"small": 12 * 2 * 16**2, "middle": 12 * 2 * 32**2, "large": 12 * 4 * 32**2, "largest": 12 * 4 * 64**2}

Settings = dict[str, Any]
Probes = Callable[[Settings, int], dict[str, float]]
Loss = Callable[[Settings], float]  # infinite: the run diverges


def make(
    folder: Path, axes: dict[str, list[Any]], loss: Loss, *, points: dict[str, Any] | None = None,
    probes: Probes | None = None, missing: Callable[[Settings], bool] | None = None,
    rule: dict[str, Any] = RULE, base: dict[str, Any] = TINY,
) -> Path:  # fmt: skip
    """A study directory; `loss` tells each cell's final validation loss, `probes` its series at each probed step."""
    folder.mkdir(parents=True)
    (folder / "cells").mkdir()
    facts = {"study": folder.name, "axes": axes, "points": points or {}, "diverged": rule, "max_lr": None, "run": {}}
    (folder / "study.yaml").write_text(runfile.to_yaml(facts))
    lines = []
    for values in product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        name = "-".join(Path(value).stem if "/" in str(value) else str(value) for value in values)
        lines.append(json.dumps({"name": name, "settings": settings, "probe": False}))
        keys = base | {key: value for axis in axes for key, value in _keys(axis, settings[axis], points or {}).items()}
        (folder / "cells" / f"{name}.yaml").write_text(runfile.to_yaml(_nested(keys)))
        if missing is None or not missing(settings):
            _run(folder / "cells" / name, settings, loss(settings), probes)
    (folder / "cells.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def noise(settings: Settings, scale: float = 0.01) -> float:
    """A number that the settings decide, the same on every machine and wherever the blocks' files lie."""
    named = {key: Path(value).stem if key == "block" else value for key, value in settings.items()}
    return scale * (zlib.crc32(json.dumps(named, sort_keys=True).encode()) / 2**31 - 1)


def _keys(axis: str, label: Any, points: dict[str, Any]) -> dict[str, Any]:
    if axis in points:
        return dict(points[axis][label])
    return {axis if "." in axis else f"set.{axis}": label}


def _nested(keys: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {"tokenizer": {"vocab": 300}, "train": {"steps": STEPS}}
    for key, value in keys.items():
        head, _, rest = key.partition(".")
        nested.setdefault(head, {})[rest] = value
    return nested


def _run(
    folder: Path, settings: Settings, loss: float, probes: Callable[[Settings, int], dict[str, float]] | None
) -> None:
    """The directory of a run whose loss falls to its last value, or which diverges half-way."""
    folder.mkdir()
    ended = math.isfinite(loss)
    steps = [1, *range(10, (STEPS if ended else STEPS // 2) + 1, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(_row(step, loss)) + "\n" for step in steps))
    facts: dict[str, Any] = {
        "state": "finished",
        "step": STEPS,
        "loss": loss,
        "val_loss": loss,
        "val_bits_per_byte": 1.0,
    }
    if not ended:
        facts = {
            "state": "diverged",
            "step": steps[-1],
            "rule": "loss_above",
            "reason": "the smoothed loss, 9, was above 6",
        }
    (folder / "status.json").write_text(json.dumps(facts))
    if probes:
        _record(folder, [(step, probes(settings, step)) for step in steps])


def _row(step: int, loss: float) -> dict[str, Any]:
    share = (step - 1) / (STEPS - 1)
    value = INITIAL + share * (loss - INITIAL) if math.isfinite(loss) else INITIAL + 8 * share
    row = {"step": step, "loss": value, "grad_norm": 1.0, "lr": 1e-3, "tokens": step * 1000, "tokens_per_s": 10.0}
    return row | ({"val_loss": value} if step % 20 == 0 and math.isfinite(loss) else {})


def _record(folder: Path, rows: Iterable[tuple[int, dict[str, float]]]) -> None:
    found = list(rows)
    about = {name: "largest product" if name.endswith(LOGIT) else "made up" for name in found[0][1]}
    index = Index("rows.bin", tuple(Column(name, "1", words) for name, words in about.items()))
    (folder / "probes").mkdir()
    (folder / "probes" / INDEX).write_text(index.text)
    data = np.array([(step, tuple(values.values())) for step, values in found], index.row)
    (folder / "probes" / "rows.bin").write_bytes(data.tobytes())

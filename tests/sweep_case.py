"""A study small enough to sweep in a test, on words drawn from a seed."""

import json
import os
from pathlib import Path

from train_case import write_case

from runners import study
from runners.studies.fork import forked
from runners.sweep import command

STUDY = """study: tiny
base: run.yaml
run: {train: {steps: 8, precision: fp32}, set: {n_layers: 1}, checkpoint: {every: 2}, log: {evaluate: 4}}
grid: {block: [baseline, qk_norm], optim.lr: [1e-3, 1e-2]}
diverged: {margin: 1.0, window: 3, val_margin: 0.5}
max_lr: {low: 1e-3, high: 1000, factor: 8}
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    """A study file with its run file and its text in a folder."""
    write_case(folder)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def sweep(path: Path, out: Path, *words: str) -> int:
    """Exit code of `blockgraph sweep`."""
    return command([str(path), "--out", str(out), *words])


def begun(path: Path, out: Path, *words: str) -> int:
    """The id of a new process that sweeps; what it says goes to a file beside the study."""
    return forked(lambda: sweep(path, out, *words), path.parent / f"{out.name}.log")


def waited(child: int) -> int:
    """The exit code of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def story(out: Path) -> dict[str, object]:
    """All that a study has come to, without what a clock, a process or a machine decides."""
    return {cell.name: (cell.state, cell.settings, _facts(cell), _series(cell)) for cell in study.read(out).cells}


def _facts(cell: study.Cell) -> dict[str, object]:
    return {key: value for key, value in cell.facts.items() if key not in ("host", "pid")}


def _series(cell: study.Cell) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in cell.metrics.read_text().splitlines()] if cell.metrics.exists() else []
    return [{key: value for key, value in row.items() if key != "tokens_per_s"} for row in rows]

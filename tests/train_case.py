"""A run small enough to train in a test, on words drawn from a seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from runners import speed
from runners.checkpoint import Checkpoints
from runners.metrics import rows
from runners.series import load
from runners.train import command

RUN = """run: tiny
set: {block: qk_norm, n_layers: 2, d_model: 16, n_heads: 2}
data: {train: [{path: words.txt}], seq: 16}
tokenizer: {vocab: 300}
train: {steps: 12, batch: 4, micro_batch: 4, precision: fp32}
schedule: {warmup: 3}
log: {every: 1, probe: 4, evaluate: 4, evaluate_tokens: 64}
checkpoint: {every: 3}
"""


@contextmanager
def trained_in(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """While runs keep what they make of their data in this folder, take one thread and do not measure the machine."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKGRAPH_CACHE", str(folder / "cache"))
        patch.setattr(speed, "PEAK_SECONDS", 0.0)
        torch.set_num_threads(1)
        yield patch
    torch.set_num_threads(threads)


def write_case(folder: Path) -> Path:
    """A run file and its text in a folder."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 7))) for _ in range(200)]
    text = "\n".join(" ".join(draw.choices(words, k=12)) + "." for _ in range(500))
    (folder / "words.txt").write_text(text)
    (folder / "run.yaml").write_text(RUN)
    return folder / "run.yaml"


def train(run: Path, out: Path, *overrides: str) -> int:
    """Exit code of `blockgraph train`."""
    return command([str(run), *overrides, "--out", str(out)])


def state(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    found = Checkpoints(out / "checkpoints", 2).newest(print)
    assert found is not None
    return {**found.tensors("model"), **found.tensors("optim")}


def series(out: Path) -> list[dict[str, float]]:
    """The rows of the metrics, without the one column that a clock decides."""
    return [{key: value for key, value in row.items() if key != "tokens_per_s"} for row in rows(out / "metrics.jsonl")]


def assert_same(out: Path, other: Path) -> None:
    """Two runs ended with the same bits and told the same story."""
    torch.testing.assert_close(state(out), state(other), rtol=0, atol=0)
    assert series(out) == series(other)
    found, expected = load(out), load(other)
    assert found.columns == expected.columns
    np.testing.assert_array_equal(found.steps, expected.steps)
    np.testing.assert_array_equal(found.values, expected.values)

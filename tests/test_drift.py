"""Gate R17: every key of a run file changed by itself, and what a run that goes on says to it."""

import re
from pathlib import Path

import pytest

from blockgraph.errors import SpecError
from runners import drift, runfile
from runners.config import RunConfig

BASE = """run: r
set: {block: qk_norm, n_layers: 2}
data: {train: [{path: a.txt}], seq: 16}
tokenizer: {vocab: 300}
train: {steps: 12, batch: 4}
"""
# A changed value of every key, as on the command line; further keys that must change with it follow.
CHANGED = {
    "run": "s", "model": "other", "set.block": "baseline", "set.n_layers": "3", "data.train": "[{path: b.txt}]",
    "data.validation": "[{path: b.txt}]", "data.held_out": "0.2", "data.seq": "32", "data.packing": "within",
    "tokenizer.vocab": "400", "tokenizer.model": "unigram",
    "tokenizer.path": "some.model tokenizer.vocab= tokenizer.model=", "train.steps": "13", "train.batch": "8",
    "train.micro_batch": "2", "train.seed": "1", "train.precision": "fp32", "train.compile": "false",
    "train.lowering": "explicit", "train.loss": "chunked", "log.probes": "[weights]",
    "train.diverged.loss_above": "9", "train.diverged.margin": "2", "train.diverged.window": "9",
    "train.diverged.spike.z": "9", "train.diverged.spike.in_a_row": "2", "train.on_fault": "skip", "train.skips": "1",
    "train.rollback.steps": "9", "train.rollback.before": "9", "train.rollback.after": "9", "train.rollback.most": "9",
    "optim.name": "muon", "optim.momentum": "0.9", "optim.lr": "1e-2", "optim.betas": "[0.9, 0.99]",
    "optim.eps": "1e-6",
    "optim.weight_decay": "0.2",
    "optim.decay": "independent", "optim.clip": "0.5", "optim.z_loss": "1e-4", "schedule.warmup": "2",
    "schedule.warmup_samples": "8", "schedule.decay": "constant", "schedule.final": "0.2",
    "schedule.cooldown": "2 schedule.decay=wsd",
    "train.shard": "1", "train.checkpointing": "block", "train.timeout_s": "60", "checkpoint.async": "false",
    "log.every": "3", "log.probe": "7", "log.evaluate": "7",
    "log.evaluate_tokens": "64", "log.sinks": "[tensorboard]", "checkpoint.every": "7", "checkpoint.keep": "3",
}  # fmt: skip
GO = {
    key
    for key in CHANGED
    if key.startswith(("log.", "checkpoint.", "train.shard", "train.checkpointing", "train.timeout_s"))
}
ONLY_VALUE = {"tokenizer.kind"}  # keys that know one value so far


def keys(kind, trail=()):
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            yield from keys(inner, (*trail, name))
        else:
            yield ".".join((*trail, field.alias or name))


def test_the_table_has_every_key():
    assert {key if not key.startswith("set.") else "set" for key in CHANGED} | ONLY_VALUE == set(keys(RunConfig))


def overrides(key):
    return re.split(r" (?=\w+\.\w+=)", f"{key}={CHANGED[key]}")


@pytest.mark.parametrize("key", CHANGED)
def test_a_changed_key_goes_on_or_is_refused_by_name(tmp_path, key):
    path = tmp_path / "r.yaml"
    path.write_text(BASE)
    before = runfile.load(path).config
    run = runfile.load(path, overrides(key))
    if key in GO:
        drift.refuse(run, before, Path("runs/r"))
        return
    with pytest.raises(SpecError) as error:
        drift.refuse(run, before, Path("runs/r"))
    assert any(problem.message.startswith(f"{key} is ") for problem in error.value.problems)


@pytest.mark.parametrize(("first", "second"), [("", "4"), ("4", "")])
def test_a_default_written_out_is_no_change(tmp_path, first, second):
    path = tmp_path / "r.yaml"
    path.write_text(BASE)
    before = runfile.load(path, [f"train.micro_batch={first}"]).config
    drift.refuse(runfile.load(path, [f"train.micro_batch={second}"]), before, Path("runs/r"))

"""A study of each kind, in seconds: swept, then reported by the sections that ask what it asks."""

from pathlib import Path

import pytest
from sweep_case import sweep
from train_case import trained_in, write_case

from blockgraph.library import shipped_folder
from runners import report, study
from runners.lab import report as lab_report
from runners.lab.sections import cause, forecast, knobs, rates, table3, two, warnings
from runners.studies import local

HEAD = """base: run.yaml
run:
  train: {steps: 6, precision: fp32}
  set: {n_layers: 1}
  checkpoint: {every: 6}
  log: {every: 1, probe: 1, evaluate: 6}
diverged: {margin: 1.0, window: 3, val_margin: 0.05}
"""
KINDS = {
    "grid": ("grid: {block: [baseline, qk_norm], optim.lr: [1e-3, 3.0], seed: [0, 1]}", (table3, rates)),
    "forecast": (
        "grid: {size: {a: {d_model: 16}, b: {d_model: 24}, c: {d_model: 32}, d: {d_model: 48}}, optim.lr: [1e-3, 0.1]}",
        (forecast, rates),
    ),
    "ablations": (
        f"grid: {{block: [baseline, {shipped_folder()}/ablations/hold_qkv.yaml], optim.lr: [1e-3, 3.0], seed: [0, 1]}}",
        (cause,),
    ),
    "two": ("grid: {block: [baseline, qk_norm], optim.z_loss: [0.0, 1e-2], optim.lr: [1e-3, 3.0]}", (two, knobs)),
    "longer": ("grid: {train.steps: [6, 12], optim.lr: [1e-3, 3.0]}", (table3, warnings)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    found = tmp_path_factory.mktemp("smoke")
    with trained_in(found) as patch:
        patch.setattr(local, "cores", lambda: 1)
        write_case(found)
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_of_each_kind_is_swept_and_its_question_answered(folder: Path, kind, monkeypatch):
    grid, sections = KINDS[kind]
    (folder / f"{kind}.yaml").write_text(f"study: {kind}\n{HEAD}{grid}\n")
    out = folder / "out" / kind
    assert sweep(folder / f"{kind}.yaml", out) == 0
    assert {cell.ended for cell in study.read(out).cells} == {True}
    monkeypatch.setattr(lab_report, "SECTIONS", tuple(module.section for module in sections))
    assert report.command([str(out)]) == 0
    text = (out / "report/report.md").read_text().replace("\\", "")
    for module in sections:
        assert f"\n## {module.TITLE}\n" in text

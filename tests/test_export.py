"""`blockgraph export`: the folder says what the run said, bit for bit, and nothing in the package unpickles."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model
from train_case import train, trained_in, write_case

import blockgraph
from runners import export
from runners.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with trained_in(folder):
        assert train(write_case(folder), folder / "run", "set.block=sigma_reparam", "train.precision=bf16") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(finished):
    assert export.command([str(finished), "-o", str(finished.parent / "out")]) == 0
    return finished.parent / "out"


def logits(model, dtype):
    model.compute_dtype = dtype
    with torch.no_grad():
        return model.eval()(torch.arange(32).reshape(2, 16) * 7 % 300)


def trained(run):
    """The model as the run itself would go on with it."""
    model = blockgraph.compile(str(run / "model.yaml"), seed=5)
    tensors = Checkpoints(run / "checkpoints", 2).peek().tensors("model")
    model.load_state_dict(tensors)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_loading_it_back_gives_the_same_logits_bitwise(finished, exported, dtype):
    model = blockgraph.compile(str(exported / "model.yaml"))
    load_model(model, exported / "model.safetensors")
    torch.testing.assert_close(logits(model, dtype), logits(trained(finished), dtype), rtol=0, atol=0)


def test_the_readme_is_followed_to_the_letter_with_and_without_blockgraph(finished, exported):
    readme = (exported / "README.md").read_text()
    assert "after step 12, trained in bf16" in readme
    lines = readme.partition("```python\n")[2].partition("```")[0]
    show = "print(logits.double().sum().item().hex())\n"
    alone = lines.replace("import blockgraph, ", "import model as module, ").replace(
        'blockgraph.compile("./model.yaml")', "module.build(0)"
    )
    told = {_run(lines + show, exported, ROOT), _run(alone + show, exported, exported)}
    assert len(told) == 1


def _run(program, folder, path):
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_folder_holds_five_files_and_stands_beside_nothing(exported):
    held = {"README.md", "model.py", "model.safetensors", "model.yaml", "tokenizer.model"}
    assert {path.name for path in exported.iterdir()} == held
    assert not list(exported.parent.glob(".*"))


def test_a_damaged_checkpoint_is_told_passed_over_and_left_where_it_is(tmp_path, finished, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoints" / "step-00000012"
    (newest / "model.safetensors").write_bytes(b"")
    before = sorted(run.rglob("*"))
    export.export(run, tmp_path / "out")
    assert capsys.readouterr().err.startswith(f"warning: {newest} is damaged and passed over: model.safetensors")
    assert "after step 9," in (tmp_path / "out" / "README.md").read_text()
    assert sorted(run.rglob("*")) == before


def test_mistakes_are_one_line_and_leave_nothing_behind(tmp_path, finished, capsys):
    cases = {
        (tmp_path, tmp_path / "a"): f"{tmp_path}: error: there is no run here; give the directory",
        (finished, tmp_path): f"{tmp_path}: error: it exists already; name a new folder with -o",
        (finished, tmp_path / "b" / "c"): f"{tmp_path}/b/c: error: cannot write the folder: No such file",
    }
    for (run, out), told in cases.items():
        assert export.command([str(run), "-o", str(out)]) == 1
        assert capsys.readouterr().err.startswith(told)
    assert export.command([str(finished), "--hf", "-o", str(tmp_path / "e")]) == 1
    assert "no map is for the spec 'gpt'; known are " in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.yaml", tmp_path / "run")
    assert export.command([str(tmp_path / "run"), "-o", str(tmp_path / "d")]) == 1
    assert "the run has no good checkpoint yet; train it for longer" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load"), ("yaml", "load"), ("hub", "load")}


def unpicklers(source):
    """Lines of a module that import or call what may run code that it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if {name.name.partition(".")[0] for name in names} & FORBIDDEN:
                yield node.lineno
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN:
                yield node.lineno
            case ast.ImportFrom(module="torch", names=names) if {name.name for name in names} & {"load", "save"}:
                yield node.lineno
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if (name, attribute) in LOADERS:
                yield node.lineno
            case ast.keyword(arg="allow_pickle" | "trust_remote_code"):
                yield node.value.lineno


@pytest.mark.parametrize("package", ["blockgraph", "runners"])
def test_nothing_in_the_package_unpickles(package):
    found = {str(path): list(unpicklers(path.read_text())) for path in (ROOT / package).rglob("*.py")}
    assert len(found) > 20
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from dill import loads", "torch.load(p)", "f(allow_pickle=True)", "from torch import load"],
)
def test_the_search_for_unpicklers_finds_them(line):
    assert list(unpicklers(line)) == [1]

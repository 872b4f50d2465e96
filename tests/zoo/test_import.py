"""Import and export by map: what is told of models that do not fit, and runs that go out to transformers' files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_case import state, train, write_case

import blockgraph as bg
from blockgraph.canonical import digest
from blockgraph.library import shipped
from blockgraph.losses import without_losses
from runners import export, speed
from runners.hf import importing
from runners.hf.exporting import described
from runners.hf.maps import read_map, shipped_maps
from runners.hf.weights import exported, imported, links

CONFIG = {
    "model_type": "llama", "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
}  # fmt: skip


def written(folder: Path, **changes: object) -> Path:
    """A folder with config.json and random weights, by the names of transformers."""
    folder.mkdir()
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    sizes = {"vocab": 31, "d_model": 16, "d_ff": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    graph = bg.load("llama3", **sizes)
    one = next(one for one in shipped_maps() if one.spec == "llama3")
    save_file(exported(one, graph, dict(bg.compile(graph).state_dict())), folder / "model.safetensors")
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert importing.command(["hf", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_folder_becomes_a_spec_with_its_weights(tmp_path, capsys):
    assert importing.command(["hf", str(written(tmp_path / "a")), "-o", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'b'}: llama3, 4,912 parameters\n"
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "README.md", "model.py", "model.safetensors", "model.yaml",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_a_sentencepiece_model_comes_along(tmp_path):
    source = written(tmp_path / "a")
    (source / "tokenizer.model").write_bytes(b"pieces")
    assert importing.command(["hf", str(source), "-o", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "tokenizer.model").read_bytes() == b"pieces"


def test_a_config_alone_becomes_a_spec(tmp_path, capsys):
    config = written(tmp_path / "a") / "config.json"
    assert importing.command(["hf", str(config), "-o", str(tmp_path / "b.yaml")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'b.yaml'}: llama3, 4,912 parameters\n"
    assert importing.command(["hf", str(config)]) == 0
    assert capsys.readouterr().out == (tmp_path / "b.yaml").read_text()
    assert bg.load(tmp_path / "b.yaml").dims.sizes["n_kv_heads"].known == 2


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"model_type": "lama"}, "2:17", "no map is for the model_type 'lama'; did you mean 'llama'?"),
        ({"hidden_act": "gelu"}, "9:17", "hidden_act is 'gelu', and llama3 has it silu or left out"),
        ({"rms_norm_eps": None}, "1:1", "'rms_norm_eps' is missing; llama3 has it 1e-05"),
        ({"hidden_size": 16.5}, "4:18", "hidden_size is '16.5', not a positive whole number"),
        ({"vocab_size": None}, "1:1", "'vocab_size' is missing; llama3 needs it"),
        ({"attention_bias": True}, "12:21", "attention_bias is 'true', and llama3 has it false or left out"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "12:19", "rope_scaling is a mapping, and llama3 has it left out"),
    ],
)
def test_a_config_that_does_not_fit_is_told_where(tmp_path, capsys, changes, line, message):
    config = written(tmp_path / "a", **changes) / "config.json"
    assert told(capsys, config)[0] == f"{config}:{line}: error: {message}"


def test_a_size_beyond_all_numbers_is_told_where(tmp_path, capsys):
    config = written(tmp_path / "a") / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": 1e999'))
    assert told(capsys, config)[0] == f"{config}:4:18: error: hidden_size is '1e999', not a positive whole number"


def test_head_counts_that_cannot_be_are_told(tmp_path, capsys):
    config = written(tmp_path / "a", num_key_value_heads=3) / "config.json"
    assert "times: n_heads / n_kv_heads is 1.33333 (n_heads = 4, n_kv_heads = 3)" in told(capsys, config)[0]


def test_tensors_that_do_not_fit_are_all_told(tmp_path, capsys):
    folder = written(tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors | {"model.odd": torch.ones(2)}, folder / "model.safetensors")
    assert told(capsys, folder, "-o", tmp_path / "b") == [
        f"{folder}: error: no tensor is called model.norm.weight, which norm.weight is made of",
        f"{folder}: error: the tensor model.odd is no weight of llama3",
    ]
    save_file(tensors | {"model.norm.weight": torch.ones(2)}, folder / "model.safetensors")
    assert told(capsys, folder, "-o", tmp_path / "b") == [
        f"{folder}: error: model.norm.weight: [2] for norm.weight [16]"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_that_are_no_tensors_are_told(tmp_path, capsys):
    folder = written(tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert told(capsys, folder, "-o", tmp_path / "b")[0].startswith(
        f"{folder}/model.safetensors: error: no safetensors file"
    )
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert told(capsys, folder, "-o", tmp_path / "b")[0].startswith(f"{folder}: error: no *.safetensors are here")
    assert told(capsys, tmp_path / "c", "-o", tmp_path / "b")[0] == (
        f"{tmp_path}/c: error: cannot read the file: No such file or directory"
    )


def test_what_stands_there_is_left_alone(tmp_path, capsys):
    folder = written(tmp_path / "a")
    assert told(capsys, folder, "-o", folder) == [f"{folder}: error: it exists already; name a new folder with -o"]


def test_a_model_without_the_prefix_of_its_head_is_understood():
    graph = bg.load("gpt2", size="tiny")
    one = next(one for one in shipped_maps() if one.spec == "gpt2")
    state = dict(bg.compile(graph).state_dict())
    bare = {name.removeprefix("transformer."): value for name, value in exported(one, graph, state).items()}
    found = imported(one, graph, bare, place=None)
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("one", shipped_maps(), ids=lambda one: one.spec)
def test_a_map_is_one_to_one(one):
    graph = bg.load(one.spec, size="tiny")
    joined = links(one, graph)
    parts = [part for link in joined for part in link.parts]
    assert len(set(parts)) == len(parts)
    for link in joined:
        value = torch.arange(float(torch.Size(link.shape).numel())).reshape(link.shape)
        assert torch.equal(link.ours(link.theirs(value)), value)


def test_a_map_with_a_mistake_is_told(tmp_path, capsys):
    text = shipped()["llama3"].with_name("llama3.hf.yaml").read_text()
    (tmp_path / "own.hf.yaml").write_text(text.replace("wieghts", "").replace("weights:", "wieghts:"))
    config = written(tmp_path / "a") / "config.json"
    (line, *_) = told(capsys, config, "--map", tmp_path / "own.hf.yaml")
    assert line.endswith("error: unknown key 'wieghts'; did you mean 'weights'?")
    (tmp_path / "own.hf.yaml").write_text(text.replace("  norm.weight: model.norm.weight\n", ""))
    (line, *_) = told(capsys, tmp_path / "a", "--map", tmp_path / "own.hf.yaml", "-o", tmp_path / "b")
    assert line == "llama3.hf.yaml: error: the map of llama3 has no line for the weight norm.weight"


def test_only_the_shipped_computation_goes_out(tmp_path, capsys):
    importing.command(["hf", str(written(tmp_path / "a")), "-o", str(tmp_path / "b")])
    text = (tmp_path / "b" / "model.yaml").read_text()
    (tmp_path / "b" / "model.yaml").write_text(text.replace("op: silu", "op: gelu"))
    capsys.readouterr()
    assert export.command([str(tmp_path / "b"), "--hf", "-o", str(tmp_path / "c")]) == 1
    assert "the model is not the shipped spec llama3, so transformers would compute" in capsys.readouterr().err
    (tmp_path / "b" / "model.yaml").write_text(text.replace("model: llama3\n", "model: lama3\n"))
    assert export.command([str(tmp_path / "b"), "--hf", "-o", str(tmp_path / "c")]) == 1
    assert "no map is for the spec 'lama3'; did you mean 'llama3'?" in capsys.readouterr().err
    assert export.command([str(tmp_path), "--hf", "-o", str(tmp_path / "c")]) == 1
    assert "there is no model.yaml here" in capsys.readouterr().err


def test_a_run_goes_out_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "PEAK_SECONDS", 0.0)
    run = write_case(tmp_path)
    run.write_text(
        run.read_text().replace("{block: qk_norm, n_layers: 2, d_model: 16, n_heads: 2}", "{size: tiny}")
        + "model: llama3\n"
    )
    assert train(run, tmp_path / "run", "train.steps=4", "train.compile=false", "set.rope_factor=1") == 0
    assert export.command([str(tmp_path / "run"), "--hf", "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.model",
    ]  # fmt: skip
    assert importing.command(["hf", str(tmp_path / "out"), "-o", str(tmp_path / "back")]) == 0
    before, after = state(tmp_path / "run"), load_file(tmp_path / "back" / "model.safetensors")
    assert len(after) == 21
    assert [name for name, value in after.items() if not torch.equal(value, before[name])] == []


def test_every_map_reads_alone():
    for path in shipped()["llama3"].parent.glob("*.hf.yaml"):
        assert read_map(path).spec == path.name.removesuffix(".hf.yaml")


@pytest.mark.parametrize("losses", ["other", "none"])
def test_what_a_model_adds_to_its_loss_is_no_matter_of_its_files(losses, tmp_path):
    graph = bg.load("mixtral", n_layers=2)
    text = bg.text(without_losses(graph) if losses == "none" else graph).replace("0.02 / n_layers", "0.5")
    (tmp_path / "model.yaml").write_text(text)
    found = bg.load(tmp_path / "model.yaml")
    assert digest(found) != digest(graph)
    assert described(found, tmp_path)[0].spec == "mixtral"

"""Specs by name and path, with dims, slots and sizes set from outside."""

import sys
from pathlib import Path

import pytest

from blockgraph.errors import Place, SpecError
from blockgraph.library import shipped
from blockgraph.load import load

GPT = """\
model: gpt
dims: {vocab: 32, n_layers: 2, d_model: 16, n_heads: 2}
slots: {block: baseline}
sizes:
  small: {d_model: 8, n_heads: 1}
  odd: {d_ff: 24}
inputs: {tokens: [batch, seq]}
nodes:
  embed: {op: embedding, in: tokens, rows: vocab, width: d_model}
  layers: {op: stack, of: block, repeat: n_layers}
  head: {op: linear, out: vocab}
outputs: {logits: head}
"""
LISTED = "`blockgraph list` shows the specs that ship with the package"
SPACED = "an edit stands behind ' + ', with a space on each side"
OWN = """\
block: own
dims: {d_model: 4, d_ff: 4 * d_model}
inputs: {x: [batch, seq, d_model]}
nodes: {fc: {op: linear, out: d_model}}
outputs: {x: fc}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gpt.yaml").write_text(GPT)
    Path("folder").mkdir()
    Path("folder/own.yaml").write_text(OWN)


def told(spec="./gpt.yaml", **settings):
    with pytest.raises(SpecError) as caught:
        load(spec, **settings)
    return str(caught.value).splitlines()


def dims(graph):
    return {name: size.known for name, size in graph.dims.sizes.items() if size.known is not None}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_spec_loads_by_its_name(name):
    assert load(name).name == name


def test_a_path_is_a_path_and_a_bare_name_is_shipped():
    assert load("gpt.yaml").title == ""
    assert load("./gpt.yaml") == load(Path("gpt.yaml")) == load(Path("gpt.yaml").resolve())
    assert load("gpt").title != ""


def test_dims_and_slots_are_set_and_reach_the_blocks():
    graph = load("./gpt.yaml", n_layers=3, d_model="2 * 32", d_ff=100, block="qk_norm")
    (block,) = graph.nodes["layers"].blocks
    assert (graph.nodes["layers"].plan, block.name) == ((0, 0, 0), "qk_norm")
    assert dims(block)["d_model"] == 64
    assert dims(block)["d_ff"] == 100


def test_a_size_sets_dims_and_single_settings_go_before_it():
    assert dims(load("./gpt.yaml", size="small")) == {"vocab": 32, "n_layers": 2, "d_model": 8, "n_heads": 1}
    assert dims(load("./gpt.yaml", size="small", d_model=12))["d_model"] == 12
    assert dims(load("./gpt.yaml", size="odd").nodes["layers"].blocks[0])["d_ff"] == 24


def test_a_path_for_a_slot_starts_from_base():
    assert load("./gpt.yaml", block="folder/own.yaml").nodes["layers"].blocks[0].name == "own"
    assert load("./gpt.yaml", block="own.yaml", base="folder").nodes["layers"].blocks[0].name == "own"
    assert load("./gpt.yaml", block="own", base="folder").nodes["layers"].blocks[0].name == "own"
    assert load("./gpt.yaml", block=Path("folder/own.yaml").resolve()).nodes["layers"].blocks[0].name == "own"


def test_a_path_in_a_text_starts_from_its_folder():
    Path("folder/deep.yaml").write_text(GPT.replace("baseline", "./own.yaml"))
    assert load("folder/deep.yaml").nodes["layers"].blocks[0].name == "own"
    Path("folder/beside.yaml").write_text(GPT.replace("baseline", "own"))
    assert load("folder/beside.yaml").nodes["layers"].blocks[0].name == "own"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"d_modle": 8}, "no dim or slot is called 'd_modle'; did you mean 'd_model'?"),
        ({"blok": "qk_norm"}, "blok: no dim is called 'qk_norm'; write a number"),
        ({"zzz": 8}, "no dim or slot is called 'zzz'; known are block, d_ff, d_head, d_model, n_heads, "
            "n_layers, size, vocab"),
        ({"d_model": 0}, "d_model: 0 is not a positive whole number"),
        ({"d_model": True}, "d_model: expected a number or an expression such as `4 * d_model`, found 'true'"),
        ({"d_model": "8 * wide"}, "d_model: no dim is called 'wide'; write a number"),
        ({"d_model": "9**9**9"}, "d_model: a power of a size is a whole number from 0 to 64, found 387420489"),
        ({"seq": 128}, "'seq' is bound when the model runs, and cannot be set"),
        ({"layer": 1}, "'layer' is bound when the model runs, and cannot be set"),
        ({"block": "qk_nrom"}, "no spec is called 'qk_nrom'; did you mean 'qk_norm'?"),
        ({"block": "./folder/onw.yaml"}, "there is no file './folder/onw.yaml'; did you mean 'own.yaml'?"),
        ({"block": "gpt"}, "'gpt' is a model; a stack holds blocks"),
        ({"block": "./folder"}, "there is no file './folder'"),
        ({"size": "smal"}, "no size is called 'smal'; did you mean 'small'?"),
        ({"size": "huge"}, "no size is called 'huge'; known are small, odd"),
    ],
)  # fmt: skip
def test_settings_that_fit_nothing_are_told(settings, expected):
    assert told(**settings)[0] == f"<set>: error: {expected}"


def test_settings_are_told_where_they_were_written():
    places = {"d_modle": Place("run.yaml", 3, 7, "set: {d_modle: 8}", 7)}
    assert told(d_modle=8, places=places)[:2] == [
        "run.yaml:3:7: error: no dim or slot is called 'd_modle'; did you mean 'd_model'?", "  3 | set: {d_modle: 8}"
    ]  # fmt: skip


def test_a_setting_at_fault_brings_no_others_with_it():
    assert told(d_model="eight", n_layers=-1) == [
        "<set>: error: d_model: no dim is called 'eight'; write a number",
        "<set>: error: n_layers: -1 is not a positive whole number",
    ]


def test_a_bad_size_is_told_even_when_it_is_not_chosen():
    Path("gpt.yaml").write_text(GPT.replace("d_ff: 24", "d_fff: 24, vocab: 1.5"))
    assert [line for line in told() if "error" in line] == [
        "gpt.yaml:6:9: error: no dim is called 'd_fff'; did you mean 'd_ff'?",
        "gpt.yaml:6:27: error: vocab: 1.5 is not a positive whole number",
    ]


def test_a_file_that_another_names_is_told_in_its_own_lines():
    Path("folder/own.yaml").write_text(OWN.replace("out: d_model", "out: d_modl"))
    assert told(block="folder/own.yaml")[:2] == [
        "folder/own.yaml:4:31: error: fc (linear): out: no dim is called 'd_modl'; did you mean 'd_model'?",
        "  4 | nodes: {fc: {op: linear, out: d_modl}}",
    ]


def test_faults_of_syntax_in_a_block_come_with_those_of_the_model():
    Path("folder/own.yaml").write_text("block: [own\n")
    Path("gpt.yaml").write_text(GPT.replace("op: linear", "op: liner"))
    assert [line.split(": error")[0] for line in told(block="folder/own.yaml") if "error" in line] == [
        "folder/own.yaml:1:8", "gpt.yaml:11:14"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("baselin", "baselin: error: no spec is called 'baselin'; did you mean 'baseline'?"),
        ("zzz", f"zzz: error: no spec is called 'zzz'; {LISTED}"),
        ("./gtp.yaml", "./gtp.yaml: error: there is no file './gtp.yaml'; did you mean 'gpt.yaml'?"),
        ("folder", f"folder: error: no spec is called 'folder'; {LISTED}"),
        ("baseline+mine", f"baseline+mine: error: no spec is called 'baseline+mine'; {SPACED}"),
        ("foldr", f"foldr: error: no spec is called 'foldr'; {LISTED}"),
        ("./folder", "folder: error: not a regular file"),
        ("", f": error: no spec is called ''; {LISTED}"),
    ],
)  # fmt: skip
def test_specs_that_are_not_there_are_told(spec, expected):
    assert told(spec) == [expected]


def test_a_spec_in_this_folder_is_pointed_at():
    Path("mine.yaml").write_text(OWN)
    assert told("mine") == ["mine: error: no spec is called 'mine'; for the file in this folder write ./mine.yaml"]


def test_an_edit_in_this_folder_is_pointed_at():
    Path("mine.yaml").write_text("edit: mine\n")
    hint = "for the file in this folder write ./mine.yaml"
    assert told("baseline + mine") == [f"mine: error: no edit is called 'mine'; {hint}"]


def test_each_file_is_read_once_and_no_other_is_opened():
    opened = []

    def watch(event, arguments):
        if watching and event == "open" and str(arguments[0]).endswith(("yaml", "yml")):
            opened.append(Path(arguments[0]).name)

    Path("gpt.yaml").write_text(GPT.replace("of: block", "of: [block, block, qk_norm, ./folder/own.yaml]"))
    watching = True
    sys.addaudithook(watch)
    load("./gpt.yaml", n_layers=4, d_model=4, block="folder/own.yaml")
    watching = False
    assert sorted(opened) == ["gpt.yaml", "own.yaml", "qk_norm.yaml"]


def inner(dims, nodes="{fc: {op: linear, out: d_model}}"):
    return GPT.replace("{block: baseline}", "{block: own}").replace("  odd: {d_ff: 24}\n", "") + (
        f"blocks:\n  own:\n    block: own\n    {dims}inputs: {{x: [batch, seq, d_model]}}\n"
        f"    nodes: {nodes}\n    outputs: {{x: fc}}\n"
    )


def test_a_block_inside_a_model_knows_its_dims(tmp_path):
    Path("inner.yaml").write_text(inner(""))
    (block,) = load("./inner.yaml", d_model=24).nodes["layers"].blocks
    assert dims(block)["d_model"] == 24
    assert [str(size) for size in block.inputs["x"].sizes] == ["batch", "seq", "d_model"]


def test_its_own_dims_may_be_made_of_them(tmp_path):
    Path("inner.yaml").write_text(inner("dims: {wide: 4 * d_model}\n    "))
    (block,) = load("./inner.yaml", size="small").nodes["layers"].blocks
    assert dims(block)["wide"] == 32
    assert dims(load("./inner.yaml", wide=40).nodes["layers"].blocks[0])["wide"] == 40


def test_a_dim_that_neither_has_is_told_in_the_block(tmp_path):
    Path("inner.yaml").write_text(inner("", "{fc: {op: linear, out: d_modle}}"))
    (line, *_) = told("./inner.yaml")
    assert line == "inner.yaml:16:35: error: fc (linear): out: no dim is called 'd_modle'; did you mean 'd_model'?"


def test_a_faulty_dim_of_the_model_is_told_once(tmp_path):
    Path("inner.yaml").write_text(inner("").replace("d_model: 16", "d_model: sixteen"))
    assert [line for line in told("./inner.yaml") if "error" in line] == [
        "inner.yaml:2:41: error: dim d_model: no dim is called 'sixteen'; dims are batch, seq, vocab, n_layers"
    ]


def test_a_block_in_a_file_of_its_own_does_not_know_them():
    Path("folder/own.yaml").write_text(OWN.replace("dims: {d_model: 4, d_ff: 4 * d_model}\n", ""))
    assert "folder/own.yaml:2:26: error: input x: no dim is called 'd_model'" in told(block="folder/own.yaml")[0]

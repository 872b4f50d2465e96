"""Edits: a change written once gives, on any base, the text that a person would have written."""

import difflib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from train_case import series, train, write_case

import blockgraph as bg
from blockgraph.canonical import canonical
from blockgraph.cli import main
from blockgraph.edits.layout import Layout
from blockgraph.errors import SpecError
from blockgraph.library import located, shipped, shipped_edits, stem
from blockgraph.load import load
from blockgraph.ops import OPS
from runners.studies.file import load as study

EDITS = tuple(shipped_edits())
BASES = {
    "llama3": EDITS,
    "olmo2": EDITS,
    "gemma2": ("qk_norm", "qkv_norm", "qk_fc_norm", "layer_scale", "soft_cap"),
    "gemma3": ("qk_norm", "qk_norm_cap", "qk_fc_norm", "sigma_reparam", "soft_cap", "soft_clip", "soft_temp"),
}
THERE = {("gemma2", "soft_cap"), ("gemma3", "qk_norm"), ("gemma3", "qk_fc_norm")}  # what the base has already
# Of all other models with all edits a few, of which each is unlike the others.
MORE = (
    *("olmo2 + qk_norm", "gemma3 + soft_cap", "mixtral + sigma_reparam", "hyper_connections + sigma_reparam"),
    *("deepseek_v3 + qk_fc_norm", "gpt_oss + soft_clip", "gptj + qkv_norm", "t5 + qk_norm_cap", "vit + layer_scale"),
)
LLAMA = ["set.n_kv_heads=1", "set.d_ff=32"]
HEAD = ("block:", "model:", "title:", "paper:")
COMMENTED = """\
# What this block is for.
block: mine
title: "Mine: a block"   # not the paper's
dims: {d_model: 16, n_heads: 2, d_head: d_model / n_heads}
inputs: {x: [batch, seq, d_model]}
nodes:
  # Attention, all in one group.
  attn:
    nodes:
      qkv: {op: linear, in: x, out: 3 * d_model}   # fused
      heads:
        op: split_heads
        heads: n_heads
        into: [q, k, v]
      # Scores of all pairs.
      bmm1: {op: matmul, in: [heads.q, heads.k],
             transpose: b, scale: 1 / sqrt(d_head)}
      mask: {op: causal_mask}                      # nothing later
      soft: {op: softmax}
      bmm2: {op: matmul, in: {a: soft, b: heads.v}}
      merge: {op: merge_heads}
      proj: {op: linear, out: d_model}

  # The residual.
  sum: {op: add, in: [x, attn.proj]}
outputs: {x: sum}   # the stream
# The end.
"""
OWN = """\
edit: mine
title: my change
steps:
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def body(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith(HEAD)]


def changed(old: str, new: str) -> list[str]:
    """Lines that differ, apart from name, title and paper, whatever their columns."""
    lines = [[" " + " ".join(line.split()) for line in body(text)] for text in (old, new)]
    return [line for line in difflib.unified_diff(*lines, n=0, lineterm="") if line[:2] in ("+ ", "- ")]


def told(*arguments) -> list[str]:
    with pytest.raises(SpecError) as caught:
        bg.edit(*arguments)
    return str(caught.value).splitlines()


def own(steps: str) -> str:
    Path("own.yaml").write_text(OWN + steps)
    return "./own.yaml"


@pytest.mark.parametrize("name", EDITS)
def test_on_the_baseline_each_method_gives_the_shipped_block_word_for_word(name):
    text = bg.edit("baseline", name)
    assert body(text) == body(shipped()[name].read_text())
    assert canonical(load(f"baseline + {name}")) == canonical(load(name))


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, names in BASES.items() for name in names])
def test_on_models_of_others_each_gives_a_valid_one_or_says_that_it_is_there(base, name):
    if (base, name) in THERE:
        assert "stands there already" in told(base, name)[0]
        return
    old = shipped()[base].read_text()
    text = bg.edit(base, name)
    Path("new.yaml").write_text(text)
    graph = load("./new.yaml", size="tiny")
    assert graph.name == f"{base}_{name}"
    assert canonical(graph) != canonical(load(base, size="tiny"))
    gone = [line for line in changed(old, text) if line[0] == "-"]
    assert len(gone) < 40
    assert [line for line in gone if "#" in line] == []


def test_an_edited_text_is_the_same_every_time():
    assert bg.edit("llama3", "qkv_norm") == bg.edit("llama3", "qkv_norm")


@pytest.mark.parametrize("spec", [*(f"llama3 + {name}" for name in EDITS), *MORE])
def test_edited_models_compute_and_have_finite_gradients(spec):
    model = bg.compile(spec, size="tiny")
    inputs = list(map(drawn, model.graph.inputs.values()))
    logits = model(*inputs).flatten(0, -2)
    F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()] == []


def drawn(kind):
    draw, shape = torch.Generator().manual_seed(0), [size.at(batch=2, seq=16, src=7) for size in kind.sizes]
    return torch.randint(256, shape, generator=draw) if kind.kind == "int" else torch.randn(shape, generator=draw)


def test_llama_changes_in_the_lines_that_the_edit_names():
    assert changed(shipped()["llama3"].read_text(), bg.edit("llama3", "qk_norm", "soft_clip")) == [
        "- rope_q: {op: rope, in: q_heads, base: rope_base, factor: rope_factor, length: rope_length}",
        "- rope_k: {op: rope, in: k_heads, base: rope_base, factor: rope_factor, length: rope_length}",
        "+ ln_q: {op: layer_norm, in: q_heads}",
        "+ ln_k: {op: layer_norm, in: k_heads}",
        "+ rope_q: {op: rope, in: ln_q, base: rope_base, factor: rope_factor, length: rope_length}",
        "+ rope_k: {op: rope, in: ln_k, base: rope_base, factor: rope_factor, length: rope_length}",
        "- bmm2: {op: matmul, in: [softmax, v_groups]}",
        "+ clip: {op: soft_clip, zeta: 1.03, gamma: -0.03}",
        "+ bmm2: {op: matmul, in: [clip, v_groups]}",
    ]


def test_every_block_of_a_model_is_edited():
    graph = load("gemma3 + soft_cap", size="tiny")
    assert [("attn.cap" in block.nodes) for block in graph.nodes["layers"].blocks] == [True, True]


def test_a_norm_that_others_read_stays_for_them():
    (block,) = load("cohere + qkv_norm", size="tiny").nodes["layers"].blocks
    assert str(block.nodes["attn.q"].inputs["x"]) == "x"
    assert str(block.nodes["ff.gate"].inputs["x"]) == "ln"


def test_two_edits_compose_in_either_order():
    both = [load(f"baseline + {a} + {b}") for a, b in (("soft_temp", "soft_cap"), ("soft_cap", "soft_temp"))]
    assert canonical(both[0]) == canonical(both[1])
    assert canonical(load("baseline + qk_norm + soft_cap")) == canonical(load("qk_norm_cap"))
    assert canonical(load("baseline + qk_norm + layer_scale")) == canonical(load("baseline + layer_scale + qk_norm"))


def test_a_diff_tells_what_the_edit_says():
    words = str(bg.diff(load("baseline"), load("baseline + soft_cap"))).splitlines()
    assert words[0] == "baseline → baseline_soft_cap: 1 added"
    assert words[1].startswith("added    attn.cap: soft_cap ")


def test_comments_layout_and_order_survive_in_any_style():
    Path("mine.yaml").write_text(COMMENTED)
    text = bg.edit("./mine.yaml", "qk_norm", "soft_cap", "layer_scale", "sigma_reparam")
    comments = [line.partition("#")[2] for line in COMMENTED.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in text.splitlines() if "#" in line] == comments
    Path("new.yaml").write_text(text)
    graph = load("./new.yaml")
    assert [str(ref) for ref in graph.nodes["sum"].inputs.values()] == ["x", "attn.scale"]
    assert list(graph.groups) == ["attn"]
    assert "      # Scores of all pairs.\n      bmm1: {op: matmul, in: [ln_q, ln_k],\n             transpose: b" in text
    assert "      cap: {op: soft_cap, cap: 50}\n      mask: {op: causal_mask}" in text
    assert "title: 'Mine: a block + QK layer normalization" in text


def test_a_longer_name_moves_the_column_of_its_neighbours():
    text = "nodes:\n  ln:   {op: a}   # one\n  gate: {op: b}\n"
    assert Layout(text).put_after(("nodes", "gate"), "ln_gate", "{op: c}").text == (
        "nodes:\n  ln:      {op: a}  # one\n  gate:    {op: b}\n  ln_gate: {op: c}\n"
    )


def test_nodes_in_braces_are_edited_in_their_line():
    layout = Layout("nodes: {a: {op: x}, b: {op: y}}\n")
    assert layout.put_before(("nodes", "b"), "c", "{op: z}").text == "nodes: {a: {op: x}, c: {op: z}, b: {op: y}}\n"
    assert layout.without(("nodes", "a")).text == "nodes: {b: {op: y}}\n"


def test_fields_are_set_and_nodes_replaced():
    edit = own(
        "  - {set: {eps: 1e-6}, at: norms}\n  - {replace: acts, by: {op: gelu}}\n"
        "places: {norms: {is: norm}, acts: {is: activation}}\n"
    )
    graph = load(f"baseline + {edit}")
    assert graph.nodes["attn.ln"].op.eps.value == 1e-6
    assert graph.nodes["ff.act"].op.name == "gelu"
    assert changed(shipped()["baseline"].read_text(), bg.edit("baseline", edit))[-2:] == [
        "- act: {op: squared_relu}", "+ act: {op: gelu}"
    ]  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_what_is_there_is_not_put_there_twice(name):
    (line, *_) = told("baseline", name, name)
    assert ": nothing to do: " in line
    assert "already" in line


def test_a_base_without_the_place_is_told_at_the_word_that_names_it():
    line, text, caret = told("sigmoid_attention", "soft_cap")
    assert line.partition("soft_cap.yaml:")[2].startswith("8:53: error: ")
    assert line.endswith(
        "sigmoid_attention.yaml: the block sigmoid_block has no 'mask', because it has no 'scores': "
        "matmul that feeds softmax through limit, mask, scale, add"
    )
    assert text[caret.index("^") :].startswith("mask}")


@pytest.mark.parametrize(
    ("steps", "place", "message"),
    [
        ("  - {put: {op: soft_cap}, as: cap, before: maks}\n", "4:44",
         "no place is called 'maks'; did you mean 'mask'?"),
        ("  - {put: {op: soft_cup}, as: cap, before: mask}\n", "4:16",
         "no op is called 'soft_cup'; did you mean 'soft_cap'?"),
        ("  - {put: {op: soft_cap}, before: mask}\n", "4:6",
         "'put' goes with `as: NAME` and one of `after` and `before`"),
        ("  - {replace: linears}\n", "4:6", "'replace' goes with `by: ...`"),
        ("  - {put: {op: soft_cap, in: softmax}, as: cap, before: mask}\n", "4:26",
         "a node of an edit says nothing of what it reads; it reads what comes to its place"),
        ("  - {put: {op: soft_cap}, as: cap, befor: mask}\n", "4:36", "unknown key 'befor'; did you mean 'before'?"),
        ("  - {after: mask}\n", "4:5", "a step has one verb of put, remove, replace, set, wrap"),
        ("  - {remove: heads}\nplaces: {heads: {is: haeds}}\n", "5:22",
         "no op and no role is called 'haeds'; `blockgraph ops` lists the ops"),
        ("  - {put: {op: soft_cap, cap: -5}, as: cap, before: mask}\n", "4:6",
         "mine does not fit {base}: attn.cap (soft_cap): cap: must be finite and positive, found -5"),
        ("  - {put: {op: relu}, as: act, before: product}\nplaces: {product: {is: matmul}}\n", "4:6",
         "mine does not fit {base}: attn.bmm1 reads 2 values; a place found by what it `reads` says which"),
    ],
)  # fmt: skip
def test_a_fault_of_an_edit_is_told_where_it_stands(steps, place, message):
    Path("base.yaml").write_text(shipped()["baseline"].read_text())
    line = told("./base.yaml", own(steps))[0]
    assert line == f"own.yaml:{place}: error: {message.replace('{base}', 'base.yaml')}"


def test_a_base_at_fault_is_told_as_it_lies_there():
    Path("base.yaml").write_text(shipped()["baseline"].read_text().replace("op: rope,", "op: rop,"))
    assert told("./base.yaml", "qk_norm")[0].startswith("base.yaml:16:21: error: no op is called 'rop'")


def test_expressions_stand_wherever_a_spec_is_named(capsys):
    assert main(["check", "baseline + qk_norm + soft_cap"]) == 0
    assert main(["check", "gpt", "--set", "block=baseline + qk_norm", "--set", "size=tiny"]) == 0
    assert main(["check", "gpt + qk_norm"]) == 0
    assert main(["check", "baseline + qk_nrom"]) == 1
    assert "no edit is called 'qk_nrom'; did you mean 'qk_norm'?" in capsys.readouterr().err


def test_the_whole_text_of_a_model_holds_the_edited_block():
    graph = load("gpt", block="baseline + qk_norm", size="tiny")
    Path("whole.yaml").write_text(bg.text(graph))
    assert canonical(load("./whole.yaml")) == canonical(graph)
    assert canonical(graph) == canonical(load("gpt", block="qk_norm", size="tiny"))


def test_an_edited_model_stands_alone():
    text = bg.edit("gpt", "qk_norm", "soft_cap")
    Path("alone.yaml").write_text(text)
    assert "slots: {block: baseline_qk_norm} " in text
    assert "\nblocks:\n  baseline_qk_norm:\n    block: baseline_qk_norm\n    title: Baseline" in text
    assert canonical(load("./alone.yaml")) == canonical(load("gpt", block="qk_norm_cap"))
    assert canonical(load("./alone.yaml", block="baseline")) == canonical(load("gpt"))


MODEL = """\
model: own
dims: {vocab: 99, n_layers: 4, d_model: 16, n_heads: 2}
slots: {one: ./mine.yaml, two: mine, three: ./mine.yaml}   # of my own
inputs: {tokens: [batch, seq]}
nodes:
  embed:  {op: embedding, in: tokens, rows: vocab, width: d_model}
  layers: {op: stack, of: [one, two, three], repeat: n_layers, at: {"0": ./first.yaml}}
  head:   {op: linear, out: vocab}
outputs: {logits: head}
"""


INSIDE = """
blocks:
  unused: {block: unused, inputs: {x: [batch, seq, 4]}, nodes: {a: {op: relu}}, outputs: {x: a}}
"""


@pytest.mark.parametrize("out", ["deep", "other", "other/deeper"])
@pytest.mark.parametrize("more", ["", INSIDE])
def test_paths_in_a_text_that_is_written_elsewhere_lead_where_they_led(out, more):
    for folder in ("deep", "other/deeper"):
        Path(folder).mkdir(parents=True)
    Path("deep/mine.yaml").write_text(COMMENTED)
    Path("deep/first.yaml").write_text(COMMENTED.replace("block: mine", "block: first"))
    Path("deep/own.yaml").write_text(MODEL + more)
    assert main(["edit", "deep/own.yaml", "--apply", "qk_norm", "-o", f"{out}/new.yaml"]) == 0
    text = Path(f"{out}/new.yaml").read_text()
    first = {"deep": "./first.yaml", "other": "../deep/first.yaml", "other/deeper": "../../deep/first.yaml"}[out]
    assert f'at: {{"0": {first}}}' in text
    assert "slots: {one: mine_qk_norm, two: mine_qk_norm_2, three: mine_qk_norm}  # of my own" in text
    assert text.count("# Scores of all pairs.") == 2
    graph = load(f"./{out}/new.yaml")
    assert ["ln_q" in " ".join(block.nodes) for block in graph.nodes["layers"].blocks] == [False, True, True, True]


def test_a_model_in_braces_names_the_edit_behind_the_block():
    Path("deep").mkdir()
    Path("deep/mine.yaml").write_text(COMMENTED)
    Path("deep/own.yaml").write_text(
        "{model: own, dims: {d_model: 16, n_heads: 2}, slots: {one: mine}, inputs: {x: [batch, seq, d_model]}, "
        "nodes: {layers: {op: stack, in: x, of: one, repeat: 2}}, outputs: {x: layers}}\n"
    )
    assert main(["edit", "deep/own.yaml", "--apply", "qk_norm", "-o", "new.yaml"]) == 0
    assert "slots: {one: deep/mine.yaml + qk_norm}" in Path("new.yaml").read_text()
    assert "attn.ln_q" in load("./new.yaml").nodes["layers"].blocks[0].nodes


def test_a_text_that_would_mean_something_else_where_it_is_written_is_refused(capsys):
    Path("deep").mkdir()
    Path("deep/mine.yaml").write_text(COMMENTED)
    Path("deep/own.yaml").write_text(MODEL.replace('at: {"0": ./first.yaml}', 'at: {"0": mine}'))
    assert main(["edit", "deep/own.yaml", "--apply", "qk_norm", "-o", "new.yaml"]) == 1
    assert "no spec is called 'mine'" in capsys.readouterr().err
    Path("mine.yaml").write_text(COMMENTED.replace("[x, attn.proj]", "[x, x, attn.proj]"))
    assert main(["edit", "deep/own.yaml", "--apply", "qk_norm", "-o", "new.yaml"]) == 1
    assert "a name in the text means another block in . than beside deep/own.yaml" in capsys.readouterr().err
    assert not Path("new.yaml").exists()


def test_a_study_crosses_edits_and_its_cells_have_safe_names(tmp_path):
    write_case(tmp_path)
    Path("own").mkdir()
    Path("own/mine.yaml").write_text(shipped()["baseline"].read_text())
    Path("study.yaml").write_text(
        "base: run.yaml\nrun: {tokenizer: {vocab: 300}}\n"
        "grid: {block: [baseline, baseline + qk_norm, ./own/mine.yaml + soft_cap]}\n"
    )
    cells = study(Path("study.yaml"), OPS).cells
    assert [cell.name for cell in cells] == ["baseline", "baseline_qk_norm", "mine_soft_cap"]
    assert cells[2].run.config.set["block"] == f"{tmp_path}/own/mine.yaml + soft_cap"


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("gpt", ["set.block=baseline + qk_norm + soft_cap"]),
        ("llama3 + qk_norm + layer_scale", LLAMA),
        ("olmo2 + qkv_norm", LLAMA),
    ],
)
def test_edited_models_train_and_their_run_holds_the_whole_text(tmp_path, model, settings):
    run = write_case(tmp_path)
    set_ = ["set={n_layers: 2, d_model: 16, n_heads: 2}", "train.steps=4", f"model={model}"]
    assert train(run, tmp_path / "out", *set_, *settings) == 0
    whole = load(tmp_path / "out/model.yaml")
    assert [name for name in whole.source["slots"].values() if "+" in name or name not in whole.source["blocks"]] == []
    losses = [row["loss"] for row in series(tmp_path / "out")]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_names_of_edited_specs_are_safe_and_their_paths_are_found():
    assert stem("./deep/mine.yaml + qk_norm") == "mine_qk_norm"
    assert located("./mine.yaml + qk_norm + ./e.yaml", Path("/a")) == "/a/mine.yaml + qk_norm + /a/e.yaml"


def test_the_command_writes_a_checked_file_or_none(capsys):
    assert main(["edit", "llama3", "--apply", "qk_norm", "--apply", "soft_cap", "-o", "mine.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote mine.yaml"
    assert Path("mine.yaml").read_text().startswith("model: mine\ntitle: Llama 3 + QK layer normalization + softmax")
    assert load("./mine.yaml", size="tiny").name == "mine"
    assert main(["edit", "mine.yaml", "--apply", "soft_cap", "-o", "again.yaml"]) == 1
    assert not Path("again.yaml").exists()
    assert main(["edit", "--list"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == list(EDITS)

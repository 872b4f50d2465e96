"""Figures: nothing collides, equal nodes stand at equal places, every format is well formed, drawing twice is equal."""

import re
import subprocess
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest
from figure_laws import faults

import blockgraph as bg
from blockgraph import ops
from blockgraph.cli import main
from blockgraph.compare import compare
from blockgraph.drawing import Options, beside, changes, figure
from blockgraph.errors import SpecError
from blockgraph.figure import engine
from blockgraph.figure.picture import Detail
from blockgraph.figure.style import LOOKS, TITLE
from blockgraph.figure.tikz import escaped, tikz
from blockgraph.library import shipped
from blockgraph.load import load

BLOCKS = ["baseline", "soft_temp", "soft_cap", "soft_clip", "sigma_reparam", "layer_scale", "qk_norm", "qk_norm_cap",
          "qkv_norm", "qk_fc_norm"]  # fmt: skip
ABLATIONS = Path(__file__).parents[1] / "specs" / "ablations"
DETAILS = [Options(), Options(aligned=False), Options(Detail("names", cost=True)), Options(Detail("numbers"))]
SHAPES_BY_HAND = """\
block: forked
dims: {d: 8}
inputs: {x: [batch, seq, d], y: [batch, seq, d]}
nodes:
  a:    {op: linear, in: x, out: d}
  gate: {op: silu, in: y}
  both: {op: multiply, in: [a, gate]}
  ff:
    title: 'A "quoted" \\ title <script>alert(1)</script>'
    nodes:
      one: {op: linear, in: both, out: 2 * d}
      act: {op: gelu}
      two: {op: linear, out: d}
  add:  {op: add, in: [x, ff, a]}
outputs: {x: add, y: gate}
"""


@pytest.fixture
def forked(tmp_path):
    path = tmp_path / "forked.yaml"
    path.write_text(SHAPES_BY_HAND)
    return load(path)


@pytest.mark.parametrize("options", DETAILS, ids=["plain", "compact", "shapes and cost", "numbers"])
@pytest.mark.parametrize("name", [*BLOCKS, "gpt"])
def test_nothing_collides_in_a_figure(name, options):
    assert faults(figure(load(name), options)) == []


@pytest.mark.parametrize(("a", "b"), [*(("baseline", name) for name in BLOCKS[1:]), ("soft_cap", "qkv_norm")])
def test_nothing_collides_in_a_difference(a, b):
    difference = compare(load(a), load(b))
    assert faults(changes(difference)) == []
    assert faults(beside(difference)) == []


@pytest.mark.parametrize("name", [name for name, path in shipped().items() if path.parent.name in ("models", "zoo")])
def test_nothing_collides_in_a_model(name):
    assert faults(figure(load(name), Options(aligned=False))) == []


def test_nothing_collides_in_a_graph_that_is_no_transformer(forked):
    assert faults(figure(forked)) == []


@pytest.mark.parametrize(("a", "b"), list(combinations(BLOCKS, 2)))
def test_the_same_node_stands_at_the_same_place_in_every_block(a, b):
    one, other = ({box.slot: (box.x, box.y) for box in figure(load(name)).boxes} for name in (a, b))
    both = {slot for slot in one if slot in other and not slot.startswith("legend")}
    assert len(both) > 12
    assert {slot: one[slot] for slot in both} == {slot: other[slot] for slot in both}


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png", ".dot", ".mmd", ".tex"])
def test_drawing_twice_gives_the_same_bytes(tmp_path, suffix):
    one, two = (bg.render("qk_norm_cap", tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert one == two
    assert len(one) > 500


def test_svg_shows_every_label_and_nothing_active(tmp_path, forked):
    text = bg.render(forked, tmp_path / "f.svg").read_text()
    root = ET.fromstring(text)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "foreignObject", "a", "image"}
    assert not re.search(r"\son\w+=|href", text)
    assert 'A "quoted" \\ title <script>alert(1)' in "".join(root.itertext())  # a long title is cut short
    assert root.get("role") == "img"


def test_tex_and_mermaid_escape_what_a_user_writes(tmp_path, forked):
    tex = bg.render(forked, tmp_path / "f.tex").read_text()
    bare = re.sub(r"\\[{}]", "", tex)
    assert bare.count("{") == bare.count("}")
    assert "<script>" not in bg.render(forked, tmp_path / "f.mmd").read_text()


def test_tex_has_only_letters_that_pdflatex_can_set():
    for name in ("deepseek_v2", "sigma_reparam"):
        assert [c for c in tikz(figure(load(name))) if ord(c) > 255] == []
    labels = "".join(path.read_text() for path in Path(ops.__file__).parent.glob("*.py"))
    assert [c for c in escaped(labels) if ord(c) > 255] == []


def test_a_difference_marks_what_was_added_removed_and_changed(tmp_path):
    statuses = {box.slot: box.status for box in changes(compare(load("baseline"), load("qkv_norm"))).boxes}
    assert {slot for slot, status in statuses.items() if status == "added"} >= {"attn.ln_q", "attn.ln_k", "attn.ln_v"}
    assert "removed" in statuses.values()
    other = tmp_path / "other.yaml"
    other.write_text(bg.text(load("soft_cap")).replace("cap: 50", "cap: 30"))
    assert str(compare(load("soft_cap"), load(other))).splitlines()[0].endswith("1 changed")


def test_a_model_shows_its_stack_as_one_plate():
    words = [words.text for words in figure(load("gpt")).words]
    assert "× 24" in " ".join(words)


def test_a_stack_of_several_blocks_shows_each_with_its_layers():
    def shown(name: str, **dims: int) -> list[tuple[str, int, str]]:
        return [(p.slot, p.repeat, p.note) for p in figure(load(name, **dims)).plates if p.note]

    assert shown("gemma2") == [
        ("layers/local", 13, "layers 0, 2, …, 24"), ("layers/global", 13, "layers 1, 3, …, 25"),
    ]  # fmt: skip
    assert shown("gemma3", n_layers=9) == [
        ("layers/local", 8, "layers 0–4, 6–8"), ("layers/global", 0, "layer 5"),
    ]  # fmt: skip
    assert shown("value_residual", n_layers=3) == [
        ("layers/first", 0, "layer 0"), ("layers/later", 2, "layers 1–2"),
    ]  # fmt: skip


def test_what_layers_carry_apart_from_the_stream_has_a_line_and_a_name_of_its_own():
    scene = figure(load("unet"))
    (skip,) = (wire for wire in scene.wires if wire.head == "layers/up/gain")
    (stream,) = (w for w in scene.wires if w.head == "layers/up/add_skip" and w.tail == "layers/down/add_ff")
    assert skip.tail == stream.tail
    assert skip.net != stream.net
    assert "SKIP" in [words.text for words in scene.words]


def test_only_what_comes_to_a_sum_is_drawn_as_a_residual():
    kinds = {wire.head: wire.kind for wire in figure(load("mixtral")).wires if wire.kind == "skip"}
    assert set(kinds) == {"layers/add_attn", "layers/add_ff"}


def test_a_long_title_goes_on_in_further_lines_and_is_not_wider_than_its_figure():
    scene = changes(compare(load("qk_fc_norm"), load(ABLATIONS / "all_norm.yaml")))
    lines = [words.text for words in scene.words if words.size == TITLE]
    assert " ".join(lines[::-1]) == (
        "Layer normalization after all four linears, against QK, Proj and FC2 layer normalization"
    )
    left, _, right, _ = scene.area
    assert right - left < 400


def test_blocks_of_a_stack_are_compared_one_by_one():
    told = str(compare(load("gemma2"), load("gemma3")))
    assert "added    layers.local.attn.ln_q: rms_norm" in told
    assert "removed  layers.global.attn.cap: soft_cap" in told


def test_an_input_that_only_one_of_two_specs_wires_is_rewired_both_ways():
    for a, b, slot in (("qwen3", "qwen3_tied", "head"), ("gpt", "packed", "layers/attn.mask")):
        assert slot in compare(load(a), load(b)).rewired
        assert slot in compare(load(b), load(a)).rewired


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{y: a, z: b}", "{y: b, z: a}", "rewired  the output y: reads b instead of a"),
        ("block: two\n", "block: two\ncausal: false\n", "changed  causal: true → false"),
        ("[batch, seq, 8]", "[batch, seq, 16]", "changed  input x: [batch, seq, 8] → [batch, seq, 16]"),
    ],
)
def test_what_differs_outside_the_nodes_is_told_and_drawn(old, new, told, tmp_path):
    text = (
        "block: two\ninputs: {x: [batch, seq, 8]}\nnodes:\n  a: {op: linear, in: x, out: 8}\n"
        "  b: {op: linear, in: x, out: 8}\noutputs: {y: a, z: b}\n"
    )
    specs = []
    for name, written in (("a", text), ("b", text.replace(old, new))):
        (tmp_path / f"{name}.yaml").write_text(written)
        specs.append(load(tmp_path / f"{name}.yaml"))
    difference = compare(*specs)
    assert str(difference).splitlines()[1].startswith(told)
    kinds = [wire.kind for wire in changes(difference).wires if wire.head.startswith("out:")]
    assert ("rewired" in kinds) == told.startswith("rewired")


def test_a_number_that_is_the_name_of_a_dim_is_shown_by_its_value():
    labels = {box.slot: box.label for box in figure(load("gemma2", logit_cap=25)).boxes}
    assert labels["cap"] == "cap 25"
    assert labels["scale"] == "× sqrt(d_model)"
    assert labels["layers/local/attn.mask"] == "mask, window 4096"


def test_roles_differ_in_shape_or_clearly_in_grey():
    def grey(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255

    alike = [
        (a, b) for (a, x), (b, y) in combinations(LOOKS.items(), 2)
        if x.shape == y.shape and x.shape != "text" and abs(grey(x.fill) - grey(y.fill)) < 0.1
    ]  # fmt: skip
    assert alike == []


def test_without_graphviz_svg_says_what_to_install_and_texts_still_come(tmp_path, monkeypatch):
    missing = subprocess.CompletedProcess([], engine.MISSING, b"", b"")
    monkeypatch.setattr(engine, "_run", lambda *_: missing)
    monkeypatch.setattr(engine.shutil, "which", lambda _: None)
    with pytest.raises(SpecError) as told:
        bg.render("baseline", tmp_path / "f.svg")
    assert str(told.value) == (
        f"{tmp_path}/f.svg: error: drawing svg needs Graphviz, which is not here; "
        "`pip install pygraphviz` brings it, or install Graphviz; .dot, .mmd and .tex need neither"
    )
    assert list(tmp_path.iterdir()) == []
    assert [bg.render("baseline", tmp_path / f"f{suffix}").exists() for suffix in (".dot", ".mmd", ".tex")] == [
        True
    ] * 3


def test_a_suffix_that_is_no_format_is_told(tmp_path, capsys):
    assert main(["render", "baseline", "-o", str(tmp_path / "f.sgv")]) == 1
    assert (
        capsys.readouterr().err == f"{tmp_path}/f.sgv: error: '.sgv' is not a format of figures; did you mean '.svg'?\n"
    )


def test_a_notebook_shows_the_figure():
    assert load("baseline")._repr_svg_().startswith("<svg")
    assert bg.diff("baseline", "qk_norm")._repr_svg_().startswith("<svg")

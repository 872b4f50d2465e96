"""Figures coloured by what a run measured: true numbers, colours that grey can tell apart, errors with near misses."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import make

import blockgraph as bg
from blockgraph.drawing import Options, figure, svg_of
from blockgraph.errors import SpecError
from blockgraph.figure.heat import Measured
from blockgraph.figure.style import INK, contrast, luminance
from runners.lab.measured import measured

SCALE = Measured({}, "made up", 1e-3, 1e5)


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_a_larger_number_is_never_lighter_in_grey(one, other):
    low, high = sorted((one, other))
    assert luminance(SCALE.colour(high)) <= luminance(SCALE.colour(low))


@given(st.floats(allow_nan=True))
def test_the_number_in_a_box_can_be_read_on_every_colour(value):
    assert contrast(INK, SCALE.colour(value)) > 4.5


def test_a_number_that_is_not_finite_stands_at_the_dark_end():
    assert SCALE.colour(math.inf) == SCALE.colour(math.nan) == SCALE.colour(1e5) != SCALE.colour(1e-3)


def test_measured_boxes_show_their_number_and_all_others_are_white():
    shown = Measured({"attn.qkv": 210.0, "ff.fc2": 0.5}, "made up", 0.5, 210.0)
    scene = figure(bg.load("baseline"), Options(measured=shown))
    boxes = {box.slot: box for box in scene.boxes}
    assert {slot: box.sub for slot, box in boxes.items() if box.sub} == {"attn.qkv": "210", "ff.fc2": "0.5"}
    assert {box.fill for slot, box in boxes.items() if slot not in shown.values} == {"#FFFFFF"}
    drawn = svg_of(scene)
    assert drawn.count("data-node=") == drawn.count("data-value=") == 2
    assert "made up; colours from 0.5 (light) to 210 (dark)" in drawn
    assert "data-node" not in svg_of(figure(bg.load("baseline")))


def test_the_number_of_an_expert_is_no_layer(tmp_path):
    def probes(settings, step):
        return {
            f"layers.{layer}.ff.route.load.{expert}": 10.0 * layer + expert for layer in (0, 1) for expert in (0, 1)
        }

    study = make(tmp_path / "s", {"block": ["baseline"], "optim.lr": [0.1]}, lambda s: 2.0, probes=probes)
    found = measured(study / "cells/baseline-0.1", "load.0", layer=0)
    assert found.values["ff.route"] == 0.0
    with pytest.raises(SpecError, match=r"layer 3 has no 'load\.1'; layers are 0 to 1"):
        measured(study / "cells/baseline-0.1", "load.1", layer=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def probes(settings, step):
        return {"layers.0.attn.qkv.y.l2": step, "layers.1.attn.qkv.y.l2": 2.0 * step, "head.y.l2": math.nan}

    axes = {"block": ["baseline"], "optim.lr": [0.1]}
    study = make(tmp_path_factory.mktemp("s") / "s", axes, lambda s: 2.0, probes=probes)
    return study / "cells/baseline-0.1"


def test_a_node_has_the_largest_value_of_its_layers_or_that_of_one(run):
    found = measured(run, "y.l2")
    assert (found.values["attn.qkv"], found.values["layers.attn.qkv"]) == (200.0, 200.0)
    assert found.words == "y.l2 at step 100, largest over the layers"
    assert measured(run, "y.l2", layer=0, step=55).values["attn.qkv"] == 50.0


@pytest.mark.parametrize(
    ("quantity", "layer", "step", "message"),
    [
        ("y.l3", None, None, "nothing was recorded as 'y.l3'; did you mean 'y.l2'?"),
        ("y.l2", 7, None, "layer 7 has no 'y.l2'; layers are 0 to 1"),
        ("y.l2", None, 0, "nothing was recorded up to step 0; the first row is of step 1"),
    ],
)
def test_what_was_not_recorded_is_told(run, quantity, layer, step, message):
    with pytest.raises(SpecError) as error:
        measured(run, quantity, layer, step)
    assert str(error.value) == f"{run}: error: {message}"

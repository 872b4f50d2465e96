"""Values that a stack carries apart for numbers, and layers that are named as a range."""

from pathlib import Path

import pytest

import blockgraph as bg
from blockgraph.errors import SpecError
from blockgraph.library import shipped
from blockgraph.ops.stack import Stack


def stack_of(graph: bg.Graph) -> Stack:
    op = graph.nodes["layers"].op
    assert isinstance(op, Stack)
    return op


def told(folder: Path, old: str, new: str) -> str:
    text = shipped()["unet"].read_text()
    assert old in text
    (folder / "own.yaml").write_text(text.replace(old, new))
    with pytest.raises(SpecError) as caught:
        bg.load(folder / "own.yaml", size="tiny")
    return caught.value.problems[0].message


def test_layers_of_a_range_have_one_block_and_meet_by_their_numbers() -> None:
    op = stack_of(bg.load("unet", size="tiny", n_layers=6))
    assert op.layers() == ("down",) * 3 + ("up",) * 3
    assert op.index == {"skip": [0, 1, 2, 2, 1, 0]}
    assert [op.carried("skip", layer) for layer in (0, 5)] == ["skip[0]"] * 2
    assert op.carried("x", 5) == "x"


def test_a_stack_does_not_give_what_it_carries_apart() -> None:
    assert bg.load("unet", size="tiny").nodes["layers"].outputs == ("x",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min(layer, n_layers - 1 - layer)", "n_layers - layer",
         "layers (stack): layer 2 (unet_up) reads 'skip[2]', which is not carried; "
         "what is carried: x, skip[4], skip[3]"),
        ("min(layer, n_layers - 1 - layer)", "layer / 2",
         "layers (stack): index: 'layer / 2' is 0.5 in layer 1, not a whole number"),
        ("min(layer, n_layers - 1 - layer)", "seq",
         "layers (stack): index: is 'seq', and seq is known only at run time"),
        ("n_layers / 2:", "7:", "layers (stack): at: '7:' names no layer of 4"),
    ],
)  # fmt: skip
def test_numbers_and_ranges_that_cannot_be_are_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert told(tmp_path, old, new) == message

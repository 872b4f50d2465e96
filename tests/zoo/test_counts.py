"""Parameters of the real sizes against the published ones, and small models that run."""

import pytest
import torch

import blockgraph as bg
from blockgraph.library import shipped
from blockgraph.syntax import plain, read

# By spec and size. The counts are those of the tensors in the published checkpoints, as their pages on Hugging Face
# give them ("model size", from the safetensors' index) unless a comment says otherwise.
PUBLISHED = {
    ("llama3", "8b"): 8_030_261_248,
    ("llama3", "70b"): 70_553_706_496,
    ("llama3", "3.1_405b"): 405_853_388_800,
}
ZOO = [name for name, path in shipped().items() if path.parent.name == "zoo"]


SIZES = [(name, size) for name in ZOO for size in plain(read(shipped()[name]))["sizes"]]


@pytest.mark.parametrize(("spec", "size"), PUBLISHED)
def test_parameters_are_as_many_as_published(spec: str, size: str) -> None:
    assert bg.cost(bg.load(spec, size=size)).parameters == PUBLISHED[spec, size]


@pytest.mark.parametrize(("spec", "size"), SIZES)
def test_every_size_is_a_model(spec: str, size: str) -> None:
    assert bg.load(spec, size=size).kind == "model"


@pytest.mark.parametrize("spec", ZOO)
def test_the_tiny_size_learns(spec: str) -> None:
    model = bg.compile(spec, size="tiny")
    inputs = [torch.randint(2, (2, 8)) for _ in model.graph.inputs]
    logits = model(*inputs)
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []

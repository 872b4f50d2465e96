"""What torch.compile and torch.export make of compiled modules."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import METHODS
from torch import Tensor, nn
from torch._dynamo.utils import counters

import blockgraph as bg

SPECS = Path(__file__).parent / "specs"
SMALL = {"d_model": 64, "n_heads": 4}
TINY = {"n_layers": 3, "d_model": 32, "n_heads": 4, "vocab": 61}

# Dynamo looks at `.grad` of every tensor, and torch warns of that; only here are warnings errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def graphs() -> Iterator[Any]:
    """The count of graphs that dynamo has made since the test began."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("baseline", 1), ("sigma_reparam", 1), ("streams", 4), ("value_residual", 2), ("depth", 1), ("shared", 1)],
)
def test_torch_compiles_a_block_once_for_all_layers(spec: str, expected: int, graphs: Any) -> None:
    # The first layer of `streams` reads one tensor twice, and torch compiles that apart from two tensors.
    module = compiled_model(spec)
    for block in module.blocks():
        block.compile(fullgraph=True, backend="aot_eager")
    tokens = torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(1))
    outputs = module(tokens)
    (outputs if isinstance(outputs, Tensor) else outputs[0]).sum().backward()
    assert graphs() == expected


def compiled_model(spec: str) -> nn.Module:
    return bg.compile("gpt", block=spec, **TINY) if spec in METHODS else bg.compile(SPECS / f"{spec}.yaml")


@every_method
def test_a_compiled_block_equals_the_eager_one(method: str, graphs: Any) -> None:
    equals_eager(method, "aot_eager")
    assert graphs() == 1


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_equals_the_eager_block_with_all_methods_at_once(graphs: Any) -> None:
    equals_eager(SPECS / "all_methods.yaml", "inductor")


@pytest.mark.parametrize("spec", ["streams", "value_residual"])
def test_a_whole_model_is_one_graph_too(spec: str, graphs: Any) -> None:
    module, tokens = compiled_model(spec), torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(1))
    expected = module(tokens)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(tokens), expected)
    assert graphs() == 1


def equals_eager(spec: Path | str, backend: str) -> None:
    eager, block = bg.compile(spec, **SMALL), bg.compile(spec, **SMALL)
    block.compile(fullgraph=True, backend=backend)
    x = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(1))
    for module in (eager, block):
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.mul_(5.0 if "qkv" in name else 1.0)
    found, expected = block(x), eager(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for name, value in block.named_parameters():
        other = eager.get_parameter(name).grad
        assert (value.grad - other).norm() <= 1e-4 * other.norm(), name


@pytest.mark.parametrize("spec", ["cross", "clip_by_length", "relu_attention"])
def test_numbers_of_the_length_compile_for_every_length(spec: str, graphs: Any) -> None:
    module = bg.compile(SPECS / f"{spec}.yaml")
    expected = [module(*lengths(spec, seq)) for seq in (5, 8, 13)]
    module.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    for seq, value in zip((5, 8, 13), expected, strict=True):
        torch.testing.assert_close(module(*lengths(spec, seq)), value)
    assert graphs() == 1


def lengths(spec: str, seq: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seq)
    return [torch.randn(2, length, 32, generator=draw) for length in ([seq, seq + 2] if spec == "cross" else [seq])]


def test_a_block_can_be_exported() -> None:
    block, x = bg.compile("qk_norm", **SMALL), torch.randn(2, 7, 64)
    seq = torch.export.Dim("seq", min=2, max=64)
    exported = torch.export.export(block, (x,), dynamic_shapes=({1: seq},))
    longer = torch.randn(2, 20, 64)
    torch.testing.assert_close(exported.module()(longer), block(longer))

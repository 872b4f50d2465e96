"""Every family against transformers itself: logits and gradients, and the files that go there and back."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, made, read_by
from maiming import maimed
from safetensors.torch import load_file, load_model
from torch import Tensor

import blockgraph as bg
from runners import export
from runners.hf import importing
from runners.hf.exporting import described
from runners.hf.weights import links

CLOSE = 1e-4  # bound on the errors of logits and gradients in fp32, relative to the largest entry
FELT = 1e-2  # change of the logits, relative to the largest, from which a node counts as felt

every_case = pytest.mark.parametrize("case", FAMILIES)


def proven(case: str) -> tuple[str, str]:
    """The spec of a case, and what it is compared with."""
    return FAMILIES[case][0], f"transformers' `{FAMILIES[case][1]}`"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@cache
def theirs(case: str) -> Any:
    return made(case)


def there(case: str, folder: Path) -> Path:
    """The folder that transformers writes."""
    if not (folder / case).exists():
        theirs(case).save_pretrained(folder / case)
    return folder / case


def imported(case: str, folder: Path) -> Path:
    """The folder that the import makes of it."""
    out = folder / f"{case}-ours"
    if not out.exists():
        assert importing.command(["hf", str(there(case, folder)), "-o", str(out)]) == 0
    return out


def ours(case: str, folder: Path) -> Any:
    model = bg.compile(str(imported(case, folder) / "model.yaml"))
    load_model(model, imported(case, folder) / "model.safetensors")
    return model


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def given(logits: Tensor) -> Tensor:
    """One number whose gradient reaches every weight."""
    return (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum()


@pytest.mark.proves(proven, {"logits": CLOSE})
@every_case
def test_logits_are_those_of_transformers(case: str, folder: Path) -> None:
    assert bg.load(imported(case, folder) / "model.yaml").name == FAMILIES[case][0]
    with torch.no_grad():
        found, expected = ours(case, folder)(*read_by(case).values()), theirs(case)(**read_by(case)).logits
    assert expected.abs().max() > 0.1
    assert error(found, expected) < CLOSE


def stored_gradients(model: Any, folder: Path) -> dict[str, Tensor]:
    """The gradients as transformers would write the weights, some of which it renames, splits or leaves out."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value, other in zip(twin.parameters(), model.parameters(), strict=True):
            value.copy_(other.grad)
    twin.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.proves(proven, {"gradients": CLOSE})
@every_case
def test_gradients_are_those_of_transformers(case: str, folder: Path) -> None:
    model, other = ours(case, folder), theirs(case)
    given(model(*read_by(case).values())).backward()
    other.zero_grad()
    given(other(**read_by(case)).logits).backward()
    expected = stored_gradients(other, folder / f"{case}-gradients")
    one, _ = described(model.graph, folder)
    own = dict(model.named_parameters())
    for link in links(one, model.graph):
        if link.name in own:
            # As one tensor, because the gradient of a bias on keys alone is nothing but rounding.
            assert error(own[link.name].grad, link.ours(expected)) < CLOSE, link.name
        expected = {name: gradient for name, gradient in expected.items() if name not in link.parts}
    assert expected == {}


@pytest.mark.proves(proven, {"weights there and back": 0})
@every_case
def test_there_and_back_is_bitwise(case: str, folder: Path) -> None:
    out = folder / f"{case}-back"
    assert export.command([str(imported(case, folder)), "--hf", "-o", str(out)]) == 0
    before, after = load_file(there(case, folder) / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    model = type(theirs(case)).from_pretrained(out, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(model(**read_by(case)).logits, theirs(case)(**read_by(case)).logits)


@every_case
def test_no_node_could_be_left_out(case: str, folder: Path) -> None:
    model = ours(case, folder)
    with torch.no_grad():
        whole = model(*read_by(case).values())
        for name, graph in maimed(model.graph).items():
            smaller = bg.compile(graph)
            smaller.load_state_dict({key: model.state_dict()[key] for key in smaller.state_dict()})
            assert not error(smaller(*read_by(case).values()), whole) < FELT, name

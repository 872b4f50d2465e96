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


def balance(module: Any) -> Any:
    """The loss of transformers for the logits of routers, and their z-loss from its formula."""
    import importlib

    return importlib.import_module(type(module).__module__).load_balancing_loss_func


# By case, the factors of the balance of experts and of the z-loss, each of them for the mean over three layers.
ROUTED = {"mixtral": (0.02, 0.0), "qwen3_moe": (0.001, 0.0), "olmoe": (0.01 / 2, 0.001)}


@pytest.mark.proves(proven, {"losses of its routers": CLOSE})
@pytest.mark.parametrize("case", ROUTED)
def test_losses_of_routers_and_their_gradients_are_those_of_transformers(case: str, folder: Path) -> None:
    # Of a layer at a time, which is Switch's; over several, transformers multiplies means that are over all layers.
    graph = bg.load(imported(case, folder) / "model.yaml")
    model = bg.compile(graph, losses=True)
    load_model(model, imported(case, folder) / "model.safetensors")
    factor, z_factor = ROUTED[case]
    other, size = theirs(case), graph.dims.sizes
    logits = other(**read_by(case), output_router_logits=True).router_logits
    chosen = size["n_experts"].known, size["top"].known
    terms = [factor / 3 * balance(other)((each,), *chosen) for each in logits]
    terms += [z_factor / 3 * each.logsumexp(-1).square().mean() for each in logits]
    _, found = model(*read_by(case).values())
    assert len(logits) == 3
    assert error(found.detach(), sum(terms).detach()) < CLOSE
    other.zero_grad()
    sum(terms).backward()
    found.backward()
    expected = stored_gradients(filled(other), folder / f"{case}-router-gradients")
    one, _ = described(graph, folder)
    for link in links(one, graph):
        gradient, wanted = dict(model.named_parameters())[link.name].grad, link.ours(expected)
        gradient = torch.zeros_like(wanted) if gradient is None else gradient
        assert float((gradient - wanted).abs().max()) <= CLOSE * max(float(wanted.abs().max()), 1e-6), link.name


def filled(model: Any) -> Any:
    """The model with a gradient of zeros for what had none."""
    for value in model.parameters():
        value.grad = torch.zeros_like(value) if value.grad is None else value.grad
    return model


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

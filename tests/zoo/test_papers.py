"""Architectures that transformers lacks against plain torch written from their papers."""

import re
from functools import cache
from typing import Any

import pytest
import torch
from maiming import maimed
from papers import MODELS, Weights
from torch import Tensor

import blockgraph as bg
from blockgraph.kernels.base import initial_value

CLOSE = 1e-4  # bound on the errors of logits and gradients in fp32, relative to the largest entry
FELT = 1e-2  # change of the logits, relative to the largest, from which a node counts as felt
WIDTHS: dict[str, Any] = {"size": "tiny", "vocab": 61, "d_model": 48, "n_heads": 4, "d_ff": 80}

OTHERS: dict[str, dict[str, Any]] = {
    "hyper_connections, static": {"block": "hyper_layer_static"},
    "unet": {"logit_cap": 3},  # so that it is felt
}

every_model = pytest.mark.parametrize("name", MODELS)


def proven(name: str) -> tuple[str, str]:
    """A spec, and what it is compared with."""
    return name, "plain torch written from the paper"


@cache
def ours(name: str) -> Any:
    """The model with weights that are large enough for every node to be felt."""
    model = bg.compile(name.partition(",")[0], **WIDTHS, **OTHERS.get(name, {}))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=draw)
            value.copy_(value * (1.0 + 0.5 * noise) + 0.1 * noise if value.dim() == 1 else 1.5 * noise / 48**0.5)
        for key, weight in model.weights.items():
            if weight.init in ("identity", "one_hot"):  # streams that cancel would leave rounding to the norms
                value = model.get_parameter(key)
                value.copy_(initial_value(0, key, weight) + 0.5 * value)
    return model


def tokens() -> Tensor:
    return torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(1))


def theirs(name: str, state: dict[str, Tensor]) -> Tensor:
    return MODELS[name](Weights(state, heads=4, layers=4), tokens())


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.proves(proven, {"logits": CLOSE})
@every_model
def test_logits_are_those_of_the_paper(name: str) -> None:
    with torch.no_grad():
        found, expected = ours(name)(tokens()), theirs(name, ours(name).state_dict())
    assert expected.abs().max() > 0.1
    assert error(found, expected) < CLOSE


@pytest.mark.proves(proven, {"gradients": CLOSE})
@every_model
def test_gradients_are_those_of_the_paper(name: str) -> None:
    model = ours(name)
    named = dict(model.named_parameters())
    weights = torch.randn(*tokens().shape, 61, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((model(tokens()) * weights).sum(), list(named.values()))
    expected = torch.autograd.grad((theirs(name, named) * weights).sum(), list(named.values()))
    # The first layer's streams are equal, so the norm behind their mix leaves its weights no gradient but rounding.
    sizes: dict[str, float] = {}
    for key, value in zip(named, expected, strict=True):
        sizes[alike(key)] = max(sizes.get(alike(key), 0.0), float(value.abs().max()))
    errors = {key: float((a - b).abs().max()) for key, a, b in zip(named, found, expected, strict=True)}
    assert {key: wrong for key, wrong in errors.items() if not wrong < CLOSE * sizes[alike(key)]} == {}


def alike(name: str) -> str:
    """A parameter's name without its layer; a bias of keys, which moves a row's scores as one, counts with queries'."""
    return re.sub(r"[.][0-9]+[.]", ".*.", name).replace(".k.bias", ".q.bias")


@every_model
def test_no_node_could_be_left_out(name: str) -> None:
    model = ours(name)
    with torch.no_grad():
        whole = model(tokens())
        for left_out, graph in maimed(model.graph).items():
            smaller = bg.compile(graph)
            smaller.load_state_dict({key: model.state_dict()[key] for key in smaller.state_dict()})
            assert not error(smaller(tokens()), whole) < FELT, left_out


def test_normalised_weights_stay_of_length_one() -> None:
    model = bg.compile("ngpt", **WIDTHS)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.ones_like(value))
    model.after_step()
    for name, value in model.named_parameters():
        if value.dim() == 2 and "ln_q" not in name:
            axis = 0 if name.endswith(("proj.weight", "down.weight")) else 1
            torch.testing.assert_close(value.norm(dim=axis), torch.ones(value.shape[1 - axis]))

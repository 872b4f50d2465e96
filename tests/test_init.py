"""Initial values: decided by the seed and the parameter's own name, with the paper's spread; power iteration."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracle import METHODS
from torch import nn

import blockgraph as bg
from blockgraph.kernels import reparam

SPECS = Path(__file__).parent / "specs"
SIZES = {"n_layers": 3, "d_model": 64, "n_heads": 4, "vocab": 61}

every_method = pytest.mark.parametrize("method", METHODS)


def model(method: str = "baseline", seed: int = 0, **sizes: int) -> nn.Module:
    return bg.compile("gpt", block=method, seed=seed, **(SIZES | sizes))


def sigma_block(path: Path, init: str = "sigma") -> nn.Module:
    path.write_text(
        "block: one\ndims: {d_model: 48, d_ff: 160}\ninputs: {x: [batch, seq, d_model]}\nnodes:\n"
        f"  fc: {{op: linear, out: d_ff, weight: {{op: sigma_reparam, init: {init}}}}}\noutputs: {{x: fc}}\n"
    )
    return bg.compile(path)


@every_method
def test_the_ten_blocks_share_every_weight_they_have_in_common(method: str) -> None:
    baseline = dict(model("baseline").named_parameters())
    for name, value in model(method).named_parameters():
        if name in baseline:
            assert torch.equal(value, baseline[name]), name


def test_an_initial_value_depends_on_nothing_but_seed_and_name() -> None:
    small, large = model(), model(n_layers=5, vocab=300, n_heads=2)
    for name, value in small.named_parameters():
        other = large.get_parameter(name)
        if value.shape == other.shape and "proj" not in name and "fc2" not in name:
            assert torch.equal(value, other), name
    torch.manual_seed(99)
    again = model()
    again.initialize(0)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


def test_making_a_model_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model()
    assert torch.equal(torch.rand(3), expected)


def test_seeds_and_names_give_different_values() -> None:
    first, second = model(seed=0), model(seed=1)
    assert not torch.equal(first.embed.weight, second.embed.weight)
    weights = [block.attn.qkv.weight for block in first.layers] + [block.attn.qkv.weight for block in second.layers]
    assert len({value.sum().item() for value in weights}) == len(weights)


def test_the_spread_is_that_of_the_paper() -> None:
    made = model(n_layers=2, d_model=256, vocab=1000)
    small = 0.02 / math.sqrt(2 * 2)
    for name, value in made.named_parameters():
        if value.dim() == 1:
            assert torch.equal(value, torch.ones_like(value)), name
            continue
        expected = small if name.endswith(("proj.weight", "fc2.weight")) else 0.02
        assert value.std().item() == pytest.approx(expected, rel=0.01), name
        assert abs(value.mean().item()) < 4 * expected / math.sqrt(value.numel()), name


def test_gains_of_layer_scale_start_small_and_gamma_at_one() -> None:
    for block in model("layer_scale").layers:
        assert torch.equal(block.attn.scale.weight, torch.full((64,), 0.1))
    for block in model("sigma_reparam").layers:
        assert torch.equal(block.attn.qkv.gamma, torch.ones(1))


def test_decay_and_learning_rates_come_with_the_weights() -> None:
    undecayed = {name for name, weight in model("layer_scale").weights.items() if not weight.decay}
    assert undecayed == {name for name, value in model("layer_scale").named_parameters() if value.dim() == 1}
    assert {weight.lr for weight in model("sigma_reparam").weights.values()} == {1.0}
    assert not model("sigma_reparam").weights["layers.0.attn.qkv.gamma"].decay


def test_gamma_that_starts_at_sigma_keeps_the_weight_at_step_0(tmp_path: Path) -> None:
    module = sigma_block(tmp_path / "one.yaml")
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x), F.linear(x, module.fc.weight), rtol=1e-6, atol=1e-7)
    assert module.fc.gamma.item() != 1.0


def test_fifteen_iterations_come_close_to_sigma_and_more_reach_it() -> None:
    block = model("sigma_reparam").layers[0]
    for node in (block.attn.qkv, block.attn.proj, block.ff.fc1, block.ff.fc2):
        sigma = torch.linalg.matrix_norm(node.weight, 2).item()
        assert (node.u @ node.weight @ node.v).item() == pytest.approx(sigma, rel=0.03)
    for _ in range(400):
        block.after_step()
    for node in (block.attn.qkv, block.attn.proj, block.ff.fc1, block.ff.fc2):
        sigma = torch.linalg.matrix_norm(node.weight, 2).item()
        assert (node.u @ node.weight @ node.v).item() == pytest.approx(sigma, rel=1e-5)


def test_experts_have_a_sigma_each() -> None:
    layer = bg.compile("mixtral + sigma_reparam", size="tiny").layers[0]
    for _ in range(400):
        layer.after_step()
    node = layer.ff.gate_up
    sigma = torch.linalg.matrix_norm(node.weight, 2, dim=(1, 2))
    assert node.gamma.shape == sigma.shape == (4,)
    node.gamma.data *= torch.arange(1, 5)
    found = reparam.sigma_reparam(node.weight, node.gamma, node.u, node.v)
    expected = node.weight * (torch.arange(1, 5) / sigma)[:, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_reparametrised_weight_of_zeros_is_one_until_it_has_a_direction() -> None:
    module = bg.compile("unet + sigma_reparam", size="tiny")
    node = module.layers[0].attn.proj
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(module(torch.arange(24).view(2, 12)).flatten(0, 1), torch.arange(24))
        loss.backward()
        losses.append(loss.item())
        assert all(value.grad.isfinite().all() for value in module.parameters())
        optimizer.step()
        optimizer.zero_grad()
        module.after_step()
    assert losses[-1] < losses[0]
    assert node.u.norm().item() == pytest.approx(1.0)
    assert reparam.spectral_norm(node.weight, node.u, node.v).item() > 0


def test_one_step_of_the_optimiser_is_one_power_iteration() -> None:
    block = model("sigma_reparam").layers[1]
    node = block.attn.qkv
    with torch.no_grad():
        node.weight.copy_(torch.randn(node.weight.shape, generator=torch.Generator().manual_seed(2)))
    v = F.normalize(node.weight.T @ node.u, dim=0)
    u = F.normalize(node.weight @ v, dim=0)
    block.after_step()
    torch.testing.assert_close(node.v, v)
    torch.testing.assert_close(node.u, u)


def test_the_forward_pass_leaves_the_state_as_it_is() -> None:
    made = model("sigma_reparam")
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.train()
    made(torch.randint(61, (2, 9))).sum().backward()
    assert before
    assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())
    assert {value.dtype for value in made.buffers()} == {torch.float32}


@every_method
def test_a_step_moves_only_what_the_block_says(method: str) -> None:
    made = model(method)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.after_step()
    moved = [name for name, value in made.state_dict().items() if not torch.equal(value, before[name])]
    assert {name.rpartition(".")[2] for name in moved} == ({"u", "v"} if method == "sigma_reparam" else set())

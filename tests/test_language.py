"""What specs can say, each in a small one of tests/specs/, compiled and compared with a few lines of plain torch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blockgraph as bg
from blockgraph.errors import SpecError

SPECS = Path(__file__).parent / "specs"
TOKENS = torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(3))
X = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(4))


def compiled(name: str, **settings: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module with weights large enough to matter, and its tensors by name."""
    module = bg.compile(SPECS / f"{name}.yaml", **settings)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=draw) / math.sqrt(value.shape[-1]))
    return module, dict(module.state_dict())


def heads_of(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    return tuple(part.unflatten(-1, (4, 8)).transpose(1, 2) for part in x.chunk(parts, dim=-1))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, scale: float = 1 / math.sqrt(8)) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2).flatten(2)


def test_the_first_layers_values_reach_every_layer() -> None:
    module, w = compiled("value_residual")
    x = w["embed.weight"][TOKENS]
    q, k, first = heads_of(x @ w["layers.0.qkv.weight"].T, 3)
    x = x + attend(q, k, first)
    for layer in range(1, 4):
        q, k, v = heads_of(x @ w[f"layers.{layer}.qkv.weight"].T, 3)
        x = x + attend(q, k, 0.25 * v + 0.75 * first)
    logits, v = module(TOKENS)
    torch.testing.assert_close(logits, x @ w["head.weight"].T)
    torch.testing.assert_close(v, first)


def test_a_pattern_of_blocks_carries_two_streams() -> None:
    module, w = compiled("streams")
    x = y = w["embed.weight"][TOKENS]
    for layer in range(4):
        weight = w[f"layers.{layer}.fc.weight"]
        if layer % 2 == 0:
            x = x + y @ weight.T / math.sqrt(layer + 1)
        else:
            y = y + F.silu(x @ weight.T)
    x, y = y + x @ w["layers.4.fc.weight"].T, x
    torch.testing.assert_close(module(TOKENS), (x + y) @ w["head.weight"].T)


def test_layers_share_the_parameters_of_the_first_one() -> None:
    module, w = compiled("shared")
    names = [name for name, _ in module.named_parameters()]
    owned = ["attn.ln.weight", "attn.qkv.weight", "attn.proj.weight", "ff.ln.weight", "ff.fc1.weight", "ff.fc2.weight"]
    later = [f"layers.{layer}.{name}" for layer in (1, 2) for name in ("attn.ln.weight", "attn.proj.weight")]
    expected = ["embed.weight", *(f"layers.0.{name}" for name in owned), *later, "head.weight"]
    assert sorted(names) == sorted(expected) == sorted(module.weights)
    # The state dict has one tensor under the name of every layer, as torch does with tied weights.
    assert w.keys() == {"embed.weight", "head.weight", *(f"layers.{n}.{name}" for n in range(3) for name in owned)}
    assert w["layers.2.attn.qkv.weight"].data_ptr() == w["layers.0.attn.qkv.weight"].data_ptr()
    assert module.layers[2].ff is module.layers[0].ff
    assert sum(value.numel() for value in module.parameters()) == bg.cost(module.graph).parameters
    apart = bg.compile(SPECS.parent.parent / "specs/models/gpt.yaml", n_layers=3, d_model=32, n_heads=4, vocab=61)
    apart.load_state_dict(w | {"norm.weight": torch.ones(32)})
    x = apart.embed.weight[TOKENS]
    for block in apart.layers:
        x = block(x)
    torch.testing.assert_close(module(TOKENS), x @ w["head.weight"].T)


def test_what_layers_share_acts_once_after_a_step() -> None:
    module, _ = compiled("shared", block="sigma_reparam")
    before = module.layers[0].attn.qkv.u.clone()
    module.after_step()
    weight, u = module.layers[0].attn.qkv.weight, F.normalize(before, dim=0)
    v = F.normalize(weight.T @ u, dim=0)
    torch.testing.assert_close(module.layers[2].attn.qkv.u, F.normalize(weight @ v, dim=0))


def test_attention_and_feed_forward_may_run_side_by_side() -> None:
    module, w = compiled("parallel")
    x = F.layer_norm(X, (32,), w["ln.weight"])
    attention = attend(*heads_of(x @ w["attn.qkv.weight"].T, 3)) @ w["attn.proj.weight"].T
    gate = F.silu(x @ w["ff.gate.fc.weight"].T)
    hidden = (x @ w["ff.up.weight"].T * gate) @ w["ff.down.weight"].T
    torch.testing.assert_close(module(X), X + attention + hidden)


def test_the_head_may_be_the_embedding() -> None:
    module, w = compiled("tied")
    assert list(w) == ["embed.weight"]
    assert bg.cost(module.graph).parameters == 61 * 32
    torch.testing.assert_close(module(TOKENS), F.gelu(w["embed.weight"][TOKENS]) @ w["embed.weight"].T)


def test_weights_are_owned_written_on_ports_or_wired() -> None:
    module, w = compiled("weight_ports")
    assert w.keys() == {
        "whole.weight", "scaled.gamma", "scaled.u", "scaled.v", "owned.weight", "owned.bias",
        "on_port.weight", "on_port.gamma", "on_port.u", "on_port.v", "norm_a.weight",
    }  # fmt: skip
    x = X @ w["owned.weight"].T + w["owned.bias"]
    x = x @ scaled(w, "on_port.weight", "on_port").T @ w["whole.weight"].T
    x = x @ scaled(w, "whole.weight", "scaled").T @ w["owned.weight"].T
    x = F.layer_norm(x, (32,), w["norm_a.weight"])
    torch.testing.assert_close(module(X), F.rms_norm(x, (32,), w["norm_a.weight"], 1e-5))


def scaled(w: dict[str, Tensor], weight: str, node: str) -> Tensor:
    return w[f"{node}.gamma"] / (w[f"{node}.u"] @ w[weight] @ w[f"{node}.v"]) * w[weight]


def test_rows_and_columns_stay_on_unit_length() -> None:
    module, w = compiled("weight_ports")
    raw = {name: value.clone() for name, value in w.items()}
    module.after_step()
    torch.testing.assert_close(w["whole.weight"], raw["whole.weight"] / raw["whole.weight"].norm(dim=1, keepdim=True))
    torch.testing.assert_close(w["owned.weight"], raw["owned.weight"] / raw["owned.weight"].norm(dim=0, keepdim=True))
    assert torch.equal(w["on_port.weight"], raw["on_port.weight"])
    fresh = bg.compile(SPECS / "weight_ports.yaml")
    torch.testing.assert_close(fresh.whole.weight.norm(dim=1), torch.ones(32))
    torch.testing.assert_close(fresh.owned.weight.norm(dim=0), torch.ones(32))


def test_a_reparametrised_parameter_node_is_iterated_after_its_rows_are_set() -> None:
    module, w = compiled("weight_ports")
    for _ in range(300):
        module.after_step()
    expected = torch.linalg.matrix_norm(w["whole.weight"], 2)
    torch.testing.assert_close(w["scaled.u"] @ w["whole.weight"] @ w["scaled.v"], expected)


def test_an_encoder_sees_later_tokens_where_the_spec_says_so() -> None:
    module, w = compiled("encoder")
    q, k, v = heads_of(F.layer_norm(X, (32,), w["attn.ln.weight"]) @ w["attn.qkv.weight"].T, 3)
    torch.testing.assert_close(module(X), X + attend(q, k, v, causal=False))


def test_a_text_attends_to_a_memory_of_another_length() -> None:
    module, w = compiled("cross")
    for length in (5, 11):
        memory = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(length))
        (q,) = heads_of(X @ w["attn.q.weight"].T, 1)
        k, v = heads_of(memory @ w["attn.kv.weight"].T, 2)
        scale = 1 / math.sqrt(8 * length)
        torch.testing.assert_close(module(X, memory), X + attend(q, k, v, causal=False, scale=scale))


def test_the_cost_of_a_memory_is_that_of_a_text_unless_it_is_known() -> None:
    cost = bg.cost(bg.load(SPECS / "cross.yaml"))
    assert cost.flops(2, 7) == 2 * 2 * (7 * 32 * 32 + 7 * 32 * 64 + 2 * 7 * 7 * 32)


def test_numbers_follow_the_layer_and_the_length() -> None:
    module, w = compiled("depth")
    x = w["embed.weight"][TOKENS]
    for layer in range(4):
        y = F.layer_norm(x, (32,), w[f"layers.{layer}.norm.weight"]) / math.sqrt(layer + 1)
        y = y @ w[f"layers.{layer}.fc.weight"].T * math.log(7 + 1) / 4
        y = y * min(7, 2 + layer)
        x = x + y * (-1 - layer) ** 2 / math.sqrt(7 + layer)
    torch.testing.assert_close(module(TOKENS), x @ w["head.weight"].T)


def test_initial_values_and_learning_rates_follow_the_layer() -> None:
    module = bg.compile(SPECS / "depth.yaml", d_model=256)
    for layer in range(4):
        assert module.weights[f"layers.{layer}.fc.weight"].lr == 1 + layer
        std = module.layers[layer].fc.weight.std().item()
        assert std == pytest.approx(0.02 * (4 - layer), rel=0.02)


def test_a_model_cast_to_bf16_keeps_its_constants() -> None:
    module, _ = compiled("depth")
    exact = module(TOKENS)
    found = module.to(torch.bfloat16)(TOKENS)
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


def test_a_reparametrisation_cannot_keep_state_of_an_activation(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "block: wrong\ndims: {d_model: 8}\ninputs: {x: [d_model, d_model]}\n"
        "nodes:\n  s: {op: sigma_reparam, in: x}\noutputs: {x: s}\n"
    )
    with pytest.raises(SpecError, match=r"wrong.yaml:5:3: error: s .*: keeps state .* and reads the input 'x'"):
        bg.load(path)


def test_attention_may_do_without_a_softmax() -> None:
    module, _ = compiled("relu_attention")
    weights = F.relu((X @ X.mT / 32).tril()) / 7
    torch.testing.assert_close(module(X), weights @ X)

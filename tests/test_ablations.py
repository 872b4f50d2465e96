"""Blocks that ask whether an activation grows as the cause of divergence: what they hold, and what they leave alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracle import OracleBlock
from torch import Tensor

import blockgraph as bg
from blockgraph.kernels.plain import hold_norm

FOLDER = Path(__file__).parent.parent / "specs" / "ablations"
HELD = {"hold_qkv": "attn.qkv", "hold_proj": "attn.proj", "hold_fc1": "ff.fc1", "hold_fc2": "ff.fc2"}
GAINS = ("attn.ln_v.weight", "ff.ln_fc1.weight")  # of the norms that no hand-written block has
EPS, CLOSE = 1e-12, 1e-5


def test_the_four_linears_are_held_in_turn():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted([*HELD, "all_norm"])


@pytest.mark.parametrize(("name", "linear"), HELD.items())
def test_a_held_block_is_the_baseline_with_one_node_behind_its_linear(name, linear):
    difference = bg.diff("baseline", str(FOLDER / f"{name}.yaml"))
    assert (list(difference.added), list(difference.removed)) == ([f"{linear.rpartition('.')[0]}.hold"], [])
    block = bg.load(FOLDER / f"{name}.yaml")
    (source,) = block.nodes[f"{linear.rpartition('.')[0]}.hold"].inputs.values()
    assert source.owner == linear


def test_norms_after_all_linears_add_one_behind_each():
    difference = bg.diff("baseline", str(FOLDER / "all_norm.yaml"))
    expected = {"attn.ln_q", "attn.ln_k", "attn.ln_v", "attn.ln_proj", "ff.ln_fc1", "ff.ln_fc2"}
    assert (set(difference.added), list(difference.removed)) == (expected, [])


def written_by_hand(name: str, block: torch.nn.Module) -> OracleBlock:
    """The hand-written block with norms put behind its linears, and the weights of ours."""
    state = {key: value for key, value in block.state_dict().items() if key not in GAINS}
    oracle = OracleBlock("baseline" if name in HELD else "qk_fc_norm", 48, 4)
    gains = {key: value for key, value in block.state_dict().items() if key in GAINS}

    def held(module: object, inputs: object, y: Tensor) -> Tensor:
        return y / y.square().mean(-1, keepdim=True).sqrt()

    def normed(key: str, part: slice) -> Callable[[object, object, Tensor], Tensor]:
        def hook(module: object, inputs: object, y: Tensor) -> Tensor:
            heads = y[..., part].unflatten(-1, (-1, gains[key].shape[0]))
            return torch.cat([y[..., : part.start], standardised(heads, gains[key]).flatten(-2)], -1)

        return hook

    if name in HELD:
        oracle.get_submodule(HELD[name]).register_forward_hook(held)
    else:
        oracle.get_submodule("attn.qkv").register_forward_hook(normed("attn.ln_v.weight", slice(96, None)))
        oracle.get_submodule("ff.fc1").register_forward_hook(normed("ff.ln_fc1.weight", slice(0, None)))
    oracle.load_state_dict(state)
    return oracle


def standardised(x: Tensor, gain: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * gain


def proven(name: str) -> tuple[str, str]:
    return name, "plain torch written by hand"


@pytest.mark.proves(proven, {"output": CLOSE, "gradient of x": CLOSE})
@pytest.mark.parametrize("name", [*HELD, "all_norm"])
def test_a_block_equals_torch_written_by_hand(name):
    block = bg.compile(str(FOLDER / f"{name}.yaml"), d_model=48, n_heads=4)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in block.parameters():
            noise = torch.randn(value.shape, generator=draw)
            value.copy_(1.0 + 0.5 * noise if value.dim() == 1 else 2.0 * noise / value.shape[-1] ** 0.5)
    x = torch.randn(2, 9, 48, generator=draw)
    found, expected = (seen(module, x) for module in (block, written_by_hand(name, block)))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < CLOSE * theirs.abs().max()


def seen(module: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of the input."""
    x = x.clone().requires_grad_()
    y = module(x)
    (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 1, 48)).sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_rms_is_held_whatever_comes_in(through, scale):
    x = scale * torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    y = hold_norm(x, 3.0, eps=EPS, through=through)
    torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.full((2, 5), 3.0))
    assert torch.equal(hold_norm(torch.zeros(4), 3.0, eps=EPS, through=through), torch.zeros(4))


def test_a_gradient_through_the_statistic_leaves_the_length_of_x_free_and_one_past_it_does_not():
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
    (free,) = torch.autograd.grad(hold_norm(x, 3.0, eps=EPS), x, upstream)
    (held,) = torch.autograd.grad(hold_norm(x, 3.0, eps=EPS, through=False), x, upstream)
    torch.testing.assert_close((free * x).sum(-1), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(held, upstream * 3.0 / x.detach().square().mean(-1, keepdim=True).sqrt())

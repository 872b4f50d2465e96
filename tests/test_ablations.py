"""Blocks that ask whether an activation's growth is the cause of divergence: what they hold, and what they leave "
"alone."""

from pathlib import Path

import pytest
import torch

import blockgraph as bg
from blockgraph.kernels.plain import hold_norm

FOLDER = Path(__file__).parent.parent / "specs" / "ablations"
HELD = {"hold_qkv": "attn.qkv", "hold_proj": "attn.proj", "hold_fc1": "ff.fc1", "hold_fc2": "ff.fc2"}
EPS = 1e-12


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

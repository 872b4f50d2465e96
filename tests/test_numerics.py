"""The ten blocks against torch written by hand from the paper, forward and backward, in fp32 and in bf16."""

import math
from pathlib import Path

import pytest
import torch
from oracle import CAPPED, METHODS, OracleBlock, OracleGPT, SigmaReparamLinear, power_iteration
from torch import Tensor, nn

import blockgraph as bg

WIDTH, HEADS, VOCAB, LAYERS = 64, 4, 61, 2
LOGITS, GRADIENTS = 1e-5, 1e-4  # bounds on the errors in fp32, relative to the largest entry and to the norm
BF16 = 0.02  # bound on the error of a model in bf16, as a share of the norm of its logits in fp64
BINDS = 1e-2  # change of the output, as a share of its norm, from which a method counts as felt

NO_SDPA = (*CAPPED, "soft_clip")
SPECS = Path(__file__).parent / "specs"

every_method = pytest.mark.parametrize("method", METHODS)
# torch's kernel has neither a cap nor a clip.
CASES = [(m, how) for m in METHODS for how in ("explicit", "sdpa", "blockwise") if how != "sdpa" or m not in NO_SDPA]
every_lowering = pytest.mark.parametrize(("method", "lowering"), CASES)


def tokens(batch: int = 2, seq: int = 12, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, seq), generator=torch.Generator().manual_seed(seed))


def activations(batch: int = 2, seq: int = 12) -> Tensor:
    return torch.randn(batch, seq, WIDTH, generator=torch.Generator().manual_seed(2))


def shaken(module: nn.Module, strength: float = 1.0) -> dict[str, Tensor]:
    """A state in which every method is felt: logits beyond the caps, gains far from one, gamma not one."""
    draw = torch.Generator().manual_seed(3)
    state = {}
    for name, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=draw)
        if name.endswith(("qkv.weight", "head.weight", "embed.weight")):
            state[name] = 0.4 * strength * noise
        elif name.endswith(("ln_q.weight", "ln_k.weight")):
            state[name] = 2.8 * strength * (1.0 + 0.3 * noise)
        elif name.endswith("gamma"):
            state[name] = 3.0 * strength * (1.0 + 0.1 * noise)
        elif value.dim() == 1:
            state[name] = 1.0 + 0.5 * noise
        else:
            state[name] = noise / math.sqrt(value.shape[-1])
    return state


def pair(method: str, kind: str, strength: float = 1.0, lowering: str = "explicit") -> tuple[nn.Module, nn.Module]:
    """Our module and the hand-written one with the same weights."""
    if kind == "gpt":
        sizes = {"n_layers": LAYERS, "d_model": WIDTH, "n_heads": HEADS, "vocab": VOCAB}
        ours: nn.Module = bg.compile("gpt", block=method, lowering=lowering, **sizes)
        theirs: nn.Module = OracleGPT(method, VOCAB, LAYERS, WIDTH, HEADS)
    else:
        ours = bg.compile(method, lowering=lowering, d_model=WIDTH, n_heads=HEADS)
        theirs = OracleBlock(method, WIDTH, HEADS)
    theirs.load_state_dict(shaken(theirs, strength))
    for module in theirs.modules():
        if isinstance(module, SigmaReparamLinear):
            for _ in range(30):
                u, v = power_iteration(module.weight, module.u, module.v)
                module.u.copy_(u)
                module.v.copy_(v)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def given(kind: str) -> Tensor:
    return tokens() if kind == "gpt" else activations()


def gradients(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradients of a random projection of it."""
    x = x.clone().requires_grad_() if x.is_floating_point() else x
    y = module(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y.dtype)
    (y * weights).sum().backward()
    found = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return y.detach(), found | ({} if x.grad is None else {"x": x.grad})


def far(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference as a share of the norm of what is expected."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def proven(method: str, kind: str) -> tuple[str, str]:
    """A spec, and what it is compared with."""
    return "gpt" if (method, kind) == ("baseline", "gpt") else method, "plain torch written from the paper"


@pytest.mark.proves(proven, {"output": LOGITS, "gradients": GRADIENTS})
@pytest.mark.parametrize("kind", ["block", "gpt"])
@every_lowering
def test_a_block_equals_torch_written_by_hand(method: str, lowering: str, kind: str) -> None:
    ours, theirs = pair(method, kind, lowering=lowering)
    found, expected = gradients(ours, given(kind)), gradients(theirs, given(kind))
    error = (found[0] - expected[0]).abs().max() / expected[0].abs().max().clamp(min=1.0)
    assert error.item() <= LOGITS
    assert found[1].keys() == expected[1].keys()
    errors = {name: far(found[1][name], expected[1][name]) for name in found[1]}
    assert {name: error for name, error in errors.items() if error > GRADIENTS} == {}


@every_method
def test_every_method_is_felt_at_these_weights(method: str) -> None:
    _, theirs = pair(method, "block")
    without = OracleBlock("baseline", WIDTH, HEADS)
    known = theirs.state_dict()
    without.load_state_dict({name: known.get(name, value) for name, value in without.state_dict().items()})
    change = far(theirs(activations()), without(activations()))
    assert change == 0.0 if method == "baseline" else change > BINDS


def test_the_cap_is_felt_below_the_norms_too() -> None:
    ours, theirs = pair("qk_norm_cap", "block", strength=1.5)
    without = OracleBlock("qk_norm", WIDTH, HEADS)
    without.load_state_dict(theirs.state_dict())
    assert far(theirs(activations()), without(activations())) > BINDS
    assert far(ours(activations()), theirs(activations())) <= LOGITS


@every_lowering
def test_bf16_stays_near_fp64(method: str, lowering: str) -> None:
    ours, theirs = pair(method, "gpt", strength=0.5, lowering=lowering)
    expected = theirs.double()(tokens())
    ours.compute_dtype = torch.bfloat16
    logits = ours(tokens())
    assert logits.dtype == torch.bfloat16
    assert far(logits, expected) <= BF16


@every_lowering
def test_gradients_of_a_run_in_bf16_arrive_in_fp32(method: str, lowering: str) -> None:
    ours, theirs = pair(method, "gpt", strength=0.5, lowering=lowering)
    ours.compute_dtype = torch.bfloat16
    found, expected = gradients(ours, tokens())[1], gradients(theirs.double(), tokens())[1]
    assert {value.dtype for value in found.values()} == {torch.float32}
    whole = [torch.cat([side[name].double().flatten() for name in sorted(expected)]) for side in (found, expected)]
    assert far(*whole) <= 2 * BF16


@every_lowering
def test_future_tokens_do_not_change_the_past(method: str, lowering: str) -> None:
    ours, _ = pair(method, "gpt", lowering=lowering)
    before = ours(tokens())
    for position in range(tokens().shape[1]):
        changed = tokens()
        changed[:, position] = (changed[:, position] + 1) % VOCAB
        after = ours(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[:, position], before[:, position])


@every_lowering
def test_a_sequence_does_not_see_the_others_of_its_batch(method: str, lowering: str) -> None:
    ours, _ = pair(method, "gpt", lowering=lowering)
    alone, among = ours(tokens()[:1]), ours(tokens())[:1]
    torch.testing.assert_close(alone, among, rtol=1e-5, atol=1e-5 * among.abs().max().item())


@pytest.mark.parametrize("seq", [1, 7, 64, 300])
def test_a_clip_may_follow_the_length(seq: int) -> None:
    x = torch.randn(2, seq, 32, generator=torch.Generator().manual_seed(5))
    logits = (x @ x.mT / 32).masked_fill(torch.ones(seq, seq).triu(1).bool(), -math.inf)
    gamma = -12 / seq
    weights = ((1.0 - gamma) * torch.softmax(logits, -1) + gamma).clip(0, 1)
    assert ((weights == 0).float().mean() > 0.6) or seq == 1
    torch.testing.assert_close(bg.compile(SPECS / "clip_by_length.yaml")(x), weights @ x)

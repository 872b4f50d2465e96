"""QK-clip against a step written out in plain torch, over recomputation, the compiler and several processes."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blockgraph as bg
from blockgraph.kernels.base import GraphModule

SPEC = Path(__file__).parent / "specs" / "qk_clip.yaml"
HEADS, TAU, BATCH, SEQ = 4, 1.0, 4, 9


def model(recompute: Sequence[str] = ()) -> GraphModule:
    made: GraphModule = bg.compile(SPEC, recompute=recompute)
    return made


def tokens(batch: int = BATCH) -> Tensor:
    return torch.randint(61, (batch, SEQ), generator=torch.Generator().manual_seed(1))


def logits(weight_q: Tensor, weight_k: Tensor, x: Tensor, rotated: bool) -> Tensor:
    """Logits of the paper's attention, in plain torch."""
    q, k = (F.linear(x, w).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (weight_q, weight_k))
    if rotated:
        angle = torch.outer(torch.arange(SEQ), 10000.0 ** (-torch.arange(0, 8, 2) / 8))
        turn = torch.polar(torch.ones_like(angle), angle)
        q, k = (torch.view_as_real(torch.complex(*x.chunk(2, -1)) * turn) for x in (q, k))
        q, k = (x.transpose(-1, -2).flatten(-2) for x in (q, k))
    return q @ k.mT / math.sqrt(q.shape[-1])


def reached(scores: Tensor, visible: bool) -> Tensor:
    """The greatest logit of each head, over the keys that a query sees or over all."""
    hidden = torch.ones(SEQ, SEQ).triu(1).bool()
    return (scores.masked_fill(hidden, -math.inf) if visible else scores).amax((0, 2, 3))


def paper(weight: Tensor, greatest: Tensor) -> Tensor:
    """Rows of q or of k after the clip (arXiv 2507.20534, section 2.1), head by head."""
    rows = []
    for head, part in enumerate(weight.chunk(HEADS)):
        gamma = min(1.0, TAU / greatest[head].item())
        rows.append(part * gamma**0.5)
    return torch.cat(rows)


def inputs_of_layers(made: GraphModule) -> list[Tensor]:
    found: list[Tensor] = []
    for block in made.blocks():
        block.register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
    made(tokens())
    return found


def measured(made: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.named_buffers() if name.endswith("max_logit")}


def test_a_step_is_that_of_the_paper() -> None:
    made = model()
    first, second = inputs_of_layers(made)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    greatest = reached(logits(*before["layers.0.qkv.weight"].chunk(3)[:2], first, True), visible=True)
    other = reached(logits(before["layers.1.q.weight"], before["layers.1.k.weight"], second, False), visible=False)
    assert greatest.max() > TAU > 0 < greatest.min()
    made.after_step()
    q, k, v = before["layers.0.qkv.weight"].chunk(3)
    expected = before | {
        "layers.0.qkv.weight": torch.cat([paper(q, greatest), paper(k, greatest), v]),
        "layers.1.q.weight": paper(before["layers.1.q.weight"], other),
        "layers.1.k.weight": paper(before["layers.1.k.weight"], other),
    }
    torch.testing.assert_close(made.state_dict(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_no_logit_of_the_same_input_exceeds_tau_afterwards(scale: float) -> None:
    block: GraphModule = bg.compile(bg.load(SPEC).nodes["layers"].blocks[0])
    x = scale * torch.randn(3, SEQ, 32, generator=torch.Generator().manual_seed(2))
    for part in x.split(1):
        block(part)
    before = block.qkv.weight.clone()
    block.after_step()
    after = reached(logits(*block.qkv.weight.detach().chunk(3)[:2], x, True), visible=True)
    assert after.max() <= TAU * (1 + 1e-5)
    clipped = reached(logits(*before.detach().chunk(3)[:2], x, True), visible=True) > TAU
    torch.testing.assert_close(after[clipped], torch.full((int(clipped.sum()),), TAU), rtol=1e-5, atol=0)
    unclipped = (before.unflatten(0, (3, HEADS, -1)) == block.qkv.weight.unflatten(0, (3, HEADS, -1))).flatten(2).all(2)
    assert unclipped[:2].equal(~clipped.expand(2, HEADS))
    assert unclipped[2].all()


def test_micro_batches_together_measure_what_the_whole_batch_does() -> None:
    whole, parts = model(), model()
    whole(tokens())
    for part in tokens().split(1):
        parts(part)
    assert min(value.min() for value in measured(whole).values()) > 0
    torch.testing.assert_close(measured(parts), measured(whole), rtol=1e-6, atol=0)


def test_only_training_measures_and_a_step_starts_from_nothing() -> None:
    made = model()
    made.eval()(tokens())
    assert not any(value.any() for value in measured(made).values())
    made.train()(tokens())
    made.after_step()
    assert not any(value.any() for value in measured(made).values())
    made(tokens())
    made.forget()
    assert not any(value.any() for value in measured(made).values())
    assert not any(name.endswith("max_logit") for name in made.state_dict())


def test_recomputation_measures_the_same() -> None:
    plain, again = model(), model(bg.EVERYTHING)
    for made in (plain, again):
        made(tokens()).square().mean().backward()
    torch.testing.assert_close(measured(again), measured(plain), rtol=0, atol=0)
    for made in (plain, again):
        made.after_step()
    torch.testing.assert_close(again.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first import of its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at that of every tensor
@pytest.mark.parametrize("names", [(), bg.EVERYTHING, ("bmm1", "mask", "softmax")])
def test_the_compiler_takes_a_block_whole_and_measures_the_same(names: tuple[str, ...]) -> None:
    plain, compiled = model(), model(names)
    for block in compiled.blocks():
        block.compile(fullgraph=True, backend="aot_eager")
    for made in (plain, compiled):
        made(tokens()).square().mean().backward()
    torch.testing.assert_close(measured(compiled), measured(plain), rtol=1e-5, atol=0)


def test_a_wired_value_that_is_no_parameter_is_refused(tmp_path: Path) -> None:
    text = SPEC.read_text().replace("in: [mask, qkv.weight]", "in: [mask, heads.v]")
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(bg.SpecError) as refused:
        bg.load(path)
    told = "clip (qk_clip): its weight is changed after every step, so it names a parameter, such as qkv.weight"
    assert f"bad.yaml:22:7: error: {told}; heads.v is a value" in str(refused.value)


def test_a_weight_of_other_heads_is_refused(tmp_path: Path) -> None:
    text = SPEC.read_text().replace("in: [mask, qkv.weight]", "in: [mask, qkv.weight], parts: 5")
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(bg.SpecError) as refused:
        bg.load(path)
    told = "clip (qk_clip): expects a weight [parts * heads * K, D] of 5 parts and n_heads heads, found"
    assert f"bad.yaml:22:7: error: {told} [3*d_model, d_model]" in str(refused.value)

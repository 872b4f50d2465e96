"""A loss whose logits are made in parts is the loss of the whole logits, and so are its gradients."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from train_case import series, state, train, write_case

import blockgraph
from blockgraph.errors import SpecError
from blockgraph.heads import Opened, open_head
from runners import chunked, runfile
from runners.objective import WHOLE_BYTES, objective

SPECS = Path(__file__).parent / "specs"
SIZES = {"n_layers": 2, "d_model": 16, "n_heads": 2, "vocab": 301}
Z = 0.1  # weight of the z-loss

HEADS = {
    "linear": "{op: linear, out: vocab}",
    "tied": "{op: linear, out: vocab, weight: embed.weight}",
    "reparametrised": "{op: linear, out: vocab, weight: {op: sigma_reparam}}",
    "with a bias": "{op: linear, out: vocab, bias: true}",
    "on unit rows": "{op: linear, out: vocab, after_step: unit_rows}",
    "capped": "{op: linear, out: vocab}\n  cap: {op: soft_cap, cap: 0.2}",
}
OTHERS = {
    "{op: linear, out: vocab}\n  scale: {op: scale, by: 2}": "the output is not a linear, with or without a soft_cap",
    "{op: linear, out: vocab}\n  cap: {op: soft_cap, cap: seq}": "the cap of the logits, seq, is not one number",
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(chunked, "LOGITS", 1000)
    monkeypatch.setattr(chunked, "LEAST", 8)


def values(rows=7, pieces=301, width=12, bias=True):
    draw = torch.Generator().manual_seed(1)
    shapes = (3, rows, width), (pieces, width), (pieces,)
    return [torch.randn(shape, generator=draw) for shape in (shapes if bias else shapes[:2])]


def targets(rows=7, pieces=301):
    return torch.randint(pieces, (3, rows), generator=torch.Generator().manual_seed(2))


def whole(given, aim, cap, dtype):
    """Both means by their formulas, with logits rounded to `dtype`, and the gradients of their weighted sum."""
    leaves = [value.to(torch.float64 if dtype is torch.float64 else torch.float32) for value in given]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x, weight, *bias = [leaf.to(dtype) for leaf in leaves]
    logits = F.linear(x, weight, *bias).flatten(0, 1)
    logits = logits if dtype is torch.float64 else logits.float()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    nll, z = F.cross_entropy(logits, aim.flatten()), logits.logsumexp(-1).square().mean()
    (nll + Z * z).backward()
    return [nll.detach(), z.detach(), *(leaf.grad for leaf in leaves)]


def in_parts(given, aim, cap, dtype):
    leaves = [value.clone().requires_grad_() for value in given]
    nll, z = chunked.chunked_loss(cap, compiled=False)((leaves[0].to(dtype), *leaves[1:]), aim)
    (nll + Z * z).backward()
    return [nll.detach(), z.detach(), *(leaf.grad for leaf in leaves)]


def apart(found, expected):
    """Greatest distance of two lists of tensors, each relative to the expected one's length."""
    pairs = zip(found, expected, strict=True)
    return max((a.double() - b.double()).norm().item() / b.double().norm().item() for a, b in pairs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_in_fp32_parts_give_the_losses_and_gradients_of_the_whole(cap, bias):
    given = values(bias=bias)
    found, expected = (how(given, targets(), cap, torch.float32) for how in (in_parts, whole))
    assert apart(found[:2], expected[:2]) < 1e-6
    assert apart(found[2:], expected[2:]) < 1e-5


@pytest.mark.parametrize("cap", [None, 2.0])
def test_in_bf16_parts_err_as_the_whole_does(cap):
    given = [value.bfloat16().float() for value in values(rows=40)]
    exact, parts, plain = (
        how(given, targets(rows=40), cap, dtype)
        for how, dtype in ((whole, torch.float64), (in_parts, torch.bfloat16), (whole, torch.bfloat16))
    )
    errors, allowed = ([apart([a], [b]) for a, b in zip(found, exact, strict=True)] for found in (parts, plain))
    # The gradient of x is rounded twice: a part's share of it, and their sum.
    for error, limit, times in zip(errors, allowed, (1.0, 1.0, 2**0.5, 1.1, 1.1), strict=True):
        assert error <= times * limit + 1e-7


@pytest.mark.parametrize(("rows", "pieces"), [(1, 2), (7, 301), (400, 23)])
def test_the_parts_make_up_the_vocabulary(rows, pieces):
    aim = torch.zeros(rows, dtype=torch.int64)
    parts = [part for part, _ in chunked._parts(pieces, aim)]
    assert [index for part in parts for index in range(pieces)[part]] == list(range(pieces))
    assert max(len(range(pieces)[part]) for part in parts) <= max(chunked.LEAST, chunked.LOGITS // rows)


def test_no_tensor_as_large_as_two_parts_of_the_logits_is_made(monkeypatch):
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            found = torch.utils._pytree.tree_leaves(result)
            sizes.extend(each.numel() for each in found if isinstance(each, torch.Tensor))
            return result

    given, aim = values(rows=40, width=2), targets(rows=40)
    with Watch():
        in_parts(given, aim, None, torch.float32)
    assert max(sizes) <= chunked.LOGITS < 3 * 40 * 301 / 10


def model(tmp_path, head):
    path = tmp_path / "model.yaml"
    path.write_text(
        "model: headed\ndims: {vocab: 301, d_model: 12}\ninputs: {tokens: [batch, seq]}\nnodes:\n"
        "  embed: {op: embedding, in: tokens, rows: vocab, width: d_model}\n  act: {op: gelu}\n"
        f"  head: {head}\noutputs: {{logits: {'cap' if 'cap:' in head else 'scale' if 'scale:' in head else 'head'}}}\n"
    )
    return blockgraph.load(str(path))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_an_open_head_trains_as_the_closed_one(tmp_path, head):
    graph = model(tmp_path, head)
    opened = open_head(graph)
    assert isinstance(opened, Opened)
    closed, parted = blockgraph.compile(graph), blockgraph.compile(opened.graph)
    torch.testing.assert_close(parted.state_dict(), closed.state_dict(), rtol=0, atol=0)
    assert str(parted.weights) == str(closed.weights)
    tokens, aim = targets(), targets().flip(0)
    F.cross_entropy(closed(tokens).flatten(0, 1), aim.flatten()).backward()
    chunked.chunked_loss(opened.cap, compiled=False)(parted(tokens), aim)[0].backward()
    for module in (closed, parted):
        with torch.no_grad():
            for weight in module.parameters():
                weight.sub_(weight.grad)
        module.after_step()
    torch.testing.assert_close(parted.state_dict(), closed.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("head", "why"), OTHERS.items())
def test_a_head_that_cannot_be_open_says_why(tmp_path, head, why):
    assert open_head(model(tmp_path, head)) == why


def test_hooks_on_the_outputs_do_not_stay_on_the_weights():
    opened = open_head(blockgraph.load("gpt", **SIZES))
    made = blockgraph.compile(opened.graph)
    for output in made(torch.zeros(1, 4, dtype=torch.int64)):
        output.register_hook(lambda gradient: None)
    assert not made.head.weight._backward_hooks


def run_of(tmp_path, *overrides):
    return runfile.load(write_case(tmp_path), overrides)


def test_auto_makes_large_logits_in_parts_and_small_ones_whole(tmp_path):
    vocab = WHOLE_BYTES // (4 * 16 * 4)
    for pieces, kind in ((vocab, "plain"), (vocab + 1, "chunked")):
        graph = blockgraph.load("gpt", **SIZES | {"vocab": pieces})
        assert objective(run_of(tmp_path), graph).kind == kind


def test_auto_makes_large_logits_whole_where_the_head_cannot_be_open(tmp_path):
    (head, why), *_ = OTHERS.items()
    found = objective(run_of(tmp_path, "train.batch=300000", "train.micro_batch=300000"), model(tmp_path, head))
    assert (found.kind, found.why) == ("plain", f"auto: {why}")


def test_parts_that_are_asked_for_and_cannot_be_made_are_an_error_at_the_key(tmp_path):
    (head, why), *_ = OTHERS.items()
    with pytest.raises(SpecError) as caught:
        objective(run_of(tmp_path, "train.loss=chunked"), model(tmp_path, head))
    told = f"<command line>: error: train.loss is chunked, but {why}; auto and plain make logits whole"
    assert str(caught.value) == told


def test_a_run_in_parts_is_the_run_with_whole_logits(tmp_path):
    run, steps = write_case(tmp_path), ("train.steps=4", "optim.z_loss=0.01", "train.micro_batch=2")
    for kind in ("plain", "chunked"):
        assert train(run, tmp_path / kind, f"train.loss={kind}", *steps) == 0
    for plain, parted in zip(series(tmp_path / "plain"), series(tmp_path / "chunked"), strict=True):
        assert parted == pytest.approx(plain, rel=1e-5)
    assert (tmp_path / "plain" / "model.py").read_text() == (tmp_path / "chunked" / "model.py").read_text()


def test_a_run_in_parts_resumes_bit_for_bit(tmp_path):
    run, kind = write_case(tmp_path), ("train.loss=chunked", "schedule.decay=constant")
    assert train(run, tmp_path / "once", *kind, "train.steps=6") == 0
    assert train(run, tmp_path / "twice", *kind, "train.steps=4") == 0
    assert train(run, tmp_path / "twice", *kind, "train.steps=6") == 0
    torch.testing.assert_close(state(tmp_path / "twice"), state(tmp_path / "once"), rtol=0, atol=0)

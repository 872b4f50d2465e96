"""What nodes add to the loss of a run: put out beside the logits, trained on, told apart, and nowhere else computed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F
from train_case import series, train, trained_in, write_case

import blockgraph as bg
from blockgraph.cli import main
from blockgraph.errors import SpecError
from blockgraph.kernels.losses import balance_loss, z_loss
from blockgraph.losses import has_losses, with_losses
from runners.config import RunConfig
from runners.launch import Launch
from runners.loss import cross_entropy, with_own
from runners.probing import Probing
from runners.trainer import Trainer
from runners.world import World

SPEC = Path(__file__).parent / "specs" / "losses.yaml"
ROWS, EXPERTS, TOP = (3, 8), 6, 2


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def tokens(count: int = 4, seq: int = 9) -> Tensor:
    return torch.randint(64, (count, seq), generator=torch.Generator().manual_seed(1))


def routed() -> tuple[Tensor, Tensor]:
    logits = drawn(*ROWS, EXPERTS)
    return logits, logits.topk(TOP).indices


def test_balanced_experts_have_a_loss_of_as_many_as_are_chosen() -> None:
    every = torch.arange(EXPERTS).view(3, TOP)
    assert balance_loss(torch.zeros(3, EXPERTS), every).item() == pytest.approx(TOP)
    assert balance_loss(torch.tensor([[9.0, 0, 0, 0, 0, 0]]), torch.tensor([[0, 1]])).item() > TOP


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_balance_is_that_of_the_formula(sigmoid: bool) -> None:
    logits, chosen = routed()
    scores = logits.sigmoid() / logits.sigmoid().sum(-1, keepdim=True) if sigmoid else logits.softmax(-1)
    sent = torch.zeros(*ROWS, EXPERTS)
    for row in range(ROWS[0]):
        for token in range(ROWS[1]):
            sent[row, token, chosen[row, token]] = 1
    whole = EXPERTS * (sent.flatten(0, 1).mean(0) * scores.flatten(0, 1).mean(0)).sum()
    each = EXPERTS * (sent.mean(1) * scores.mean(1)).sum(-1).mean()
    torch.testing.assert_close(balance_loss(logits, chosen, sigmoid=sigmoid), whole)
    torch.testing.assert_close(balance_loss(logits, chosen, sigmoid=sigmoid, each=True), each)


def test_the_z_loss_is_that_of_the_formula() -> None:
    logits, _ = routed()
    torch.testing.assert_close(z_loss(logits), logits.exp().sum(-1).log().square().mean())


def test_losses_of_all_layers_are_put_out_last_and_change_no_logit() -> None:
    model, plain = bg.compile(SPEC, losses=True), bg.compile(SPEC)
    logits, found = model(tokens())
    assert torch.equal(plain(tokens()), logits)
    assert "balance_loss" not in plain.source
    watched = bg.compile(SPEC, losses=True, probes=["**.value"])
    probing = Probing(watched, World(Launch(), torch.device("cpu")))
    probing.start()
    assert torch.equal(watched(tokens())[1], found)
    probing.fold()
    values = probing.finish()
    assert set(values) == {"z.value", *(f"layers.{n}.ff.{node}.value" for n in range(3) for node in ("balance", "z"))}
    assert found.item() == pytest.approx(sum(values.values()))


def test_stacks_whose_paths_make_one_word_keep_their_losses_apart(tmp_path: Path) -> None:
    inner = (
        "block: layer_z\ninputs: {x: [batch, seq, 4]}\nnodes: {f: {op: linear, out: 4}, z: {op: z_loss, factor: 1}}\n"
    )
    (tmp_path / "inner.yaml").write_text(inner + "outputs: {x: f}\n")
    stack = "{op: stack, of: ./inner.yaml, repeat: 1}"
    (tmp_path / "two.yaml").write_text(
        "block: two\ninputs: {x: [batch, seq, 4]}\nnodes:\n"
        f"  a: {{nodes: {{b: {stack}}}}}\n  z: {{op: z_loss, in: x, factor: 2}}\n  a_b: {{op: stack, in: a.b, "
        "of: ./inner.yaml, repeat: 1}\noutputs: {x: a_b}\n"
    )
    model, x = bg.compile(tmp_path / "two.yaml", losses=True), drawn(2, 3, 4)
    first = F.linear(x, model.a.b[0].f.weight)
    second = F.linear(first, model.a_b[0].f.weight)
    expected = sum(factor * y.logsumexp(-1).square().mean() for factor, y in ((2, x), (1, first), (1, second)))
    torch.testing.assert_close(model(x)[1], expected)


def test_a_module_is_written_with_its_losses_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(SPEC)]) == 0
    assert "balance_loss" not in capsys.readouterr().out
    assert main(["compile", str(SPEC), "--losses"]) == 0
    assert "return head, losses" in capsys.readouterr().out


def test_a_spec_without_losses_stays_as_it_is() -> None:
    graph = bg.load("gpt", size="small")
    assert with_losses(graph) is graph
    assert not has_losses(graph)


@pytest.mark.parametrize("recompute", [bg.EVERYTHING, ("ff.balance",), ("ff",)])
def test_computing_again_changes_no_gradient(recompute: tuple[str, ...]) -> None:
    gradients = []
    for names in ((), recompute):
        model = bg.compile(SPEC, losses=True, recompute=names)
        logits, own = model(tokens())
        (logits.square().mean() + own).backward()
        gradients.append([value.grad for value in model.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


# Dynamo looks at `.grad` of every tensor, and torch warns of that; only here are warnings errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_layers_put_out_the_same_and_are_compiled_as_often_as_without() -> None:
    assert graphs_of(losses=True) == graphs_of(losses=False)
    torch._dynamo.reset()


def graphs_of(losses: bool) -> int:
    """How many graphs dynamo makes of the layers, whose values and gradients are those of eager ones."""
    torch._dynamo.reset()
    counters.clear()
    found = []
    for backend in ("aot_eager", ""):
        model = bg.compile(SPEC, losses=losses, n_layers=2)
        for block in model.blocks() if backend else []:
            block.compile(backend=backend)
        outputs = model(tokens()) if losses else (model(tokens()), torch.zeros(()))
        (outputs[0].square().mean() + outputs[1]).backward()
        found.append([*(value.detach() for value in outputs), *(value.grad for value in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("more: {op: scale, in: balance, by: 2}", "reads ff.balance, which is a loss"),
        ("odd: {op: balance_loss, in: [router, router], factor: 1}", "expects logits [..., E] and chosen experts"),
        ("odd: {op: balance_loss, in: [router, route.chosen], factor: 0}", "positive"),
        ("odd: {op: z_loss, in: route.chosen, factor: 1}", "works on real numbers"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(line: str, told: str, tmp_path: Path) -> None:
    text = SPEC.read_text().replace("          up:", f"          {line}\n          up:")
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        bg.load(tmp_path / "odd.yaml")
    assert told in str(caught.value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("losses")
    with trained_in(folder):
        yield write_case(folder)


STEPS = ("set={}", "train.steps=4")


def test_a_run_tells_the_losses_of_the_model_apart_from_its_own(tiny: Path) -> None:
    open_head = tiny.parent / "open.yaml"  # whose logits no loss of its own reads
    open_head.write_text(SPEC.read_text().replace("  z:      {op: z_loss, factor: 0.0001}\n", ""))
    for name, more in {"whole": (), "parts": ("train.loss=chunked", "train.micro_batch=1")}.items():
        assert train(tiny, tiny.parent / name, *STEPS, f"model={open_head}", *more) == 0
    whole, parts = (series(tiny.parent / name) for name in ("whole", "parts"))
    assert [row["own_loss"] for row in whole] == pytest.approx([row["own_loss"] for row in parts], rel=1e-5)
    assert [row["loss"] for row in whole] == pytest.approx([row["loss"] for row in parts], rel=1e-5)
    assert all(0 < row["own_loss"] < 0.5 for row in whole)
    assert "val_loss" in whole[-1]


def test_logits_that_a_loss_reads_are_made_whole(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tiny, tiny.parent / "read", *STEPS, f"model={SPEC}", "train.loss=chunked") == 1
    assert "the logits are also read by z" in capsys.readouterr().err


def stepped(data: object, micro: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of a step and its gradients."""
    model = bg.compile(SPEC, losses=True, vocab=300)
    settings = {"train": {"batch": 4, "precision": "fp32", "micro_batch": micro}, "data": {"seq": 16}}
    world = World(Launch(), torch.device("cpu"))
    made = Trainer(model, RunConfig.model_validate(settings), data, world, compiled=False, loss=with_own(cross_entropy))
    return made._backward(1), {name: value.grad for name, value in made.parameters.items()}


def test_sequences_and_means_of_tokens_do_not_depend_on_how_a_batch_is_split(tiny: Path) -> None:
    from runners import runfile, shards, tokenizer

    run = runfile.load(tiny).config
    words = tokenizer.prepare(run.tokenizer, run.data, tiny.parent, tiny.parent)
    data = shards.prepare(run.data, words, tiny.parent, tiny.parent)
    losses, whole = stepped(data, 4)
    for micro in (1, 2):
        found, split = stepped(data, micro)
        torch.testing.assert_close(found, losses, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-6)


def test_shares_of_the_experts_are_recorded() -> None:
    model = bg.compile("mixtral", size="tiny", probes=["**.load.*"])  # four experts, of which a token has two
    probing = Probing(model, World(Launch(), torch.device("cpu")))
    probing.start()
    model(tokens())
    probing.fold()
    found = probing.finish()
    for layer in range(2):
        assert sum(found[f"layers.{layer}.ff.route.load.{expert}"] for expert in range(4)) == pytest.approx(2)
    assert len(found) == 8

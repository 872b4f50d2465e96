"""What a step computes, against the formulas written out in plain torch."""

import math
from types import SimpleNamespace

import pytest
import torch
from train_case import write_case

import blockgraph
from runners import optim, runfile, shards, tokenizer
from runners.config import Diverged, RunConfig
from runners.divergence import Divergence
from runners.launch import Launch
from runners.loss import loss_for
from runners.speed import Pace
from runners.trainer import Trainer
from runners.world import World


def config(**sections):
    return RunConfig.model_validate(sections)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maths")
    run = runfile.load(write_case(folder)).config
    words = tokenizer.prepare(run.tokenizer, run.data, folder, folder)
    return shards.prepare(run.data, words, folder, folder)


def trainer(data, block="qk_norm", **sections):
    model = blockgraph.compile("gpt", block=block, n_layers=2, d_model=16, n_heads=2, vocab=300)
    settings = {"train": {"batch": 4, "precision": "fp32"}, "data": {"seq": 16}} | sections
    return Trainer(model, config(**settings), data, World(Launch(), torch.device("cpu")), compiled=False)


def gradients(data, **train):
    made = trainer(data, train={"batch": 4, "precision": "fp32"} | train, optim={"z_loss": 0.01})
    losses = made._backward(1)
    return losses, {name: parameter.grad for name, parameter in made.parameters.items()}


@pytest.mark.parametrize("micro", [1, 2])
def test_accumulation_gives_the_gradients_of_the_whole_batch(data, micro):
    losses, whole = gradients(data)
    split_losses, split = gradients(data, micro_batch=micro)
    torch.testing.assert_close(split_losses, losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(split, whole, rtol=1e-6, atol=1e-6)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights_and_gradients(data):
    made = trainer(data, train={"batch": 4, "precision": "bf16"})
    logits = made.model(made.train.batch(0, 1)[:, :-1])
    made._backward(1)
    kinds = {p.dtype for p in made.parameters.values()} | {p.grad.dtype for p in made.parameters.values()}
    assert (logits.dtype, kinds) == (torch.bfloat16, {torch.float32})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_those_of_the_formulas_in_fp32(dtype):
    torch.manual_seed(0)
    logits, targets = (5 * torch.randn(2, 3, 7)).to(dtype), torch.randint(7, (2, 3))
    exact = logits.double()
    log_z = exact.exp().sum(-1).log()
    nll = (log_z - exact.gather(-1, targets[..., None])[..., 0]).mean()
    found, z = loss_for(0.1, compiled=False)(logits, targets)
    assert (found.dtype, found.item(), z.item()) == (
        torch.float32,
        pytest.approx(nll),
        pytest.approx((log_z**2).mean()),
    )
    plain, none = loss_for(0.0, compiled=False)(logits, targets)
    assert (plain.item(), none.item()) == (pytest.approx(nll), 0.0)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_compiled_losses_are_made_of_has_the_formulas_values_and_gradients(dtype, z_loss, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    torch.manual_seed(0)
    logits, targets = (5 * torch.randn(2, 3, 7)).to(dtype).requires_grad_(), torch.randint(7, (2, 3))
    exact = logits.detach().double().requires_grad_()
    log_z = exact.logsumexp(-1)
    expected = (log_z - exact.gather(-1, targets[..., None])[..., 0]).mean(), (log_z**2).mean() * bool(z_loss)
    found = loss_for(z_loss, compiled=True)(logits, targets)
    torch.testing.assert_close([x.double() for x in found], list(expected), rtol=1e-6, atol=1e-6)
    (found[0] + z_loss * found[1]).backward()
    (expected[0] + z_loss * expected[1]).backward()
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(
        logits.grad, exact.grad.to(dtype), rtol=0 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
    )


def test_z_loss_has_the_gradient_of_its_formula():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 9, requires_grad=True), torch.randint(9, (4,))
    loss_for(1.0, compiled=False)(logits, targets)[1].backward()
    log_z, softmax = logits.logsumexp(-1, keepdim=True), logits.softmax(-1)
    torch.testing.assert_close(logits.grad, 2 * log_z * softmax / 4)


def test_the_gradient_is_clipped_to_its_norm():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    norm = optim.grad_norm(parameters)
    assert norm.item() == pytest.approx(7.0)
    for limit in (None, 0.0, 8.0):
        optim.clip(parameters, limit, norm)
        assert optim.grad_norm(parameters).item() == pytest.approx(7.0)
    optim.clip(parameters, 1.4, norm)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.4, 0.6]))


def weights():
    return {
        "decayed": SimpleNamespace(decay=True, lr=1.0),
        "scaled": SimpleNamespace(decay=True, lr=0.5),
        "gain": SimpleNamespace(decay=False, lr=1.0),
    }


@pytest.mark.parametrize(("decay", "factors"), [("coupled", (0.2, 0.1, 0)), ("independent", (1.0, 1.0, 0))])
def test_decay_is_coupled_to_the_learning_rate_or_independent_of_it(decay, factors):
    # With zero gradients AdamW does nothing but decay, so each step multiplies a weight by 1 - s_t * factor * lambda.
    model = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(3)) for name in weights()})
    settings = config(optim={"lr": 0.2, "weight_decay": 0.1, "decay": decay}).optim
    made = optim.make(model, weights(), settings)
    schedule = (0.25, 1.0, 0.4)
    for share in schedule:
        for parameter in model.values():
            parameter.grad = torch.zeros(3)
        optim.set_factor(made, share)
        made.step()
    for name, factor in zip(weights(), factors, strict=True):
        expected = math.prod(1 - share * factor * 0.1 for share in schedule)
        torch.testing.assert_close(model[name].detach(), torch.full((3,), expected), rtol=1e-6, atol=0)


def test_the_first_step_of_adamw_moves_by_the_learning_rate_times_the_multiplier():
    model = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(3)) for name in weights()})
    made = optim.make(model, weights(), config(optim={"lr": 0.2}).optim)
    for parameter in model.values():
        parameter.grad = torch.full((3,), 5.0)
    optim.set_factor(made, 0.5)
    made.step()
    moved = {name: parameter[0].item() for name, parameter in model.items()}
    assert moved == pytest.approx({"decayed": -0.1, "scaled": -0.05, "gain": -0.1})


def test_training_steps_equal_plain_torch(data):
    made = trainer(data, optim={"clip": 0.5}, schedule={"warmup": 2})
    model = blockgraph.compile("gpt", block="qk_norm", n_layers=2, d_model=16, n_heads=2, vocab=300)
    assert {weight.decay for weight in model.weights.values()} == {True, False}
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if model.weights[n].decay is decay],
            "weight_decay": strength,
        }
        for decay, strength in ((True, 0.1), (False, 0.0))
    ]
    plain = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for number in (1, 2):
        tokens = data.train.shuffled(0).batch(4 * (number - 1), 4)
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in plain.param_groups:
            group["lr"] = 3e-3 * (0.5 if number == 1 else 1.0)
        plain.step()
        plain.zero_grad()
        step = made.step(number)
        assert (step.loss, step.grad_norm) == (pytest.approx(loss.item()), pytest.approx(norm.item(), rel=1e-5))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(made.parameters[name], parameter, rtol=1e-5, atol=1e-6)


def test_actions_after_a_step_run_once_a_step_whatever_the_accumulation(data, monkeypatch):
    made = trainer(data, "sigma_reparam", train={"batch": 4, "micro_batch": 1, "precision": "fp32"})
    calls = []
    monkeypatch.setattr(made.model, "after_step", lambda: calls.append(1))
    made.step(1)
    assert len(calls) == 1


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(data, where):
    made = trainer(data)
    made.step(1)
    before = {name: value.clone() for name, value in made.tensors()["model"].items()}
    poison = made.loss if where == "gradient" else None

    def loss(logits, targets):
        if poison is None:
            return logits.float().mean() * math.inf, logits.new_zeros(())
        value, z = poison(logits, targets)
        value.register_hook(lambda gradient: gradient * math.nan)
        return value, z

    made.loss = loss
    step = made.step(2)
    assert step.fault == ("the gradient norm of step 2 is nan" if poison else f"the loss of step 2 is {step.loss}")
    torch.testing.assert_close(made.tensors()["model"], before, rtol=0, atol=0)


def test_validation_is_the_mean_over_the_fixed_sample(data):
    made = trainer(data, train={"batch": 4, "micro_batch": 4, "precision": "fp32"}, log={"evaluate_tokens": 96})
    assert made.held_out == 6
    tokens = data.validation.batch(0, 6)
    logits = made.model(tokens[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert made.evaluate() == pytest.approx(expected.item(), rel=1e-6) == made.evaluate()
    assert made.model.training


def verdicts(losses, **rule):
    watched = Divergence(Diverged.model_validate(rule))
    return [bool(watched.verdict(loss)) for loss in losses]


def test_a_loss_above_the_first_by_the_margin_for_a_window_has_diverged():
    # s <- 0.9 s + 0.1 loss from 2.0 with losses of 6.0 passes 3.0 at the third of them.
    losses = [2.0] + [6.0] * 9
    assert verdicts(losses, window=4) == [False] * 6 + [True] * 4
    assert not any(verdicts(losses, window=4, loss_above=7.0))
    assert not any(verdicts(losses, window=0))


def test_spikes_and_falling_losses_have_not_diverged():
    assert not any(verdicts([8.0, *([3.0] * 10 + [30.0]) * 9], window=5))
    assert not any(verdicts([8.0 - step / 20 for step in range(100)], window=5))


def test_a_restored_rule_reaches_the_same_verdict():
    losses = [2.0, 3.1, 9.7, 0.3] + [4.0 / 3] * 3 + [8.0] * 20
    whole, first = Divergence(Diverged(window=6)), Divergence(Diverged(window=6))
    told = [whole.verdict(loss) for loss in losses]
    begun = [first.verdict(loss) for loss in losses[:9]]
    second = Divergence(Diverged(window=6))
    second.restore(first.state())
    assert begun + [second.verdict(loss) for loss in losses[9:]] == told
    assert told[-1].startswith("the smoothed loss, ")


def test_pace_counts_steps_alone():
    pace = Pace(tokens_per_step=100, flops_per_step=10**9, peak=10**10)
    pace.add(0.5)
    pace.add(1.5)
    assert (pace.tokens_per_s, pace.share) == (100.0, 0.1)
    pace.restart()
    pace.add(1.0)
    assert pace.tokens_per_s == 100.0

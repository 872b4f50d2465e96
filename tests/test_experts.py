"""Mixtures of experts, sinks and latent attention against formulas in plain torch, written from the papers."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import blockgraph as bg
from blockgraph.errors import SpecError
from blockgraph.kernels.attention import sink_softmax, slowed
from blockgraph.kernels.experts import expert_linear, grouped, looped, route, weighted_sum

ROWS, EXPERTS, TOP, WIDE, HIGH = 12, 5, 2, 16, 24
MIXTURES = ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v2_lite", "deepseek_v2", "deepseek_v3"]


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def tokens(seq: int = 20) -> Tensor:
    return torch.randint(256, (2, seq), generator=torch.Generator().manual_seed(1))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def test_every_row_goes_through_the_matrices_of_its_own_experts() -> None:
    x, weight, bias = drawn(3, 4, WIDE), drawn(EXPERTS, HIGH, WIDE, seed=1), drawn(EXPERTS, HIGH, seed=2)
    chosen = torch.randint(EXPERTS, (3, 4, TOP), generator=torch.Generator().manual_seed(3))
    spread = torch.einsum("btd,btcod->btco", x, weight[chosen]) + bias[chosen]
    torch.testing.assert_close(expert_linear(x, chosen, weight, bias), spread, rtol=1e-5, atol=1e-5)
    given = drawn(3, 4, TOP, WIDE, seed=4)
    one_each = torch.einsum("btcd,btcod->btco", given, weight[chosen]) + bias[chosen]
    torch.testing.assert_close(expert_linear(given, chosen, weight, bias), one_each, rtol=1e-5, atol=1e-5)


def test_an_expert_without_rows_has_a_gradient_of_zeros() -> None:
    weight, bias = drawn(EXPERTS, HIGH, WIDE).requires_grad_(), drawn(EXPERTS, HIGH).requires_grad_()
    expert_linear(drawn(ROWS, WIDE), torch.full((ROWS,), 3), weight, bias).sum().backward()
    for value in (weight, bias):
        assert value.grad is not None
        assert [bool(grad.abs().max() > 0) for grad in value.grad] == [False, False, False, True, False]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1], [3] * ROWS, [4, 0] * 6])
def test_one_grouped_product_is_equal_to_a_product_for_each_expert(chosen: list[int]) -> None:
    x, weight, bias = drawn(ROWS, WIDE).bfloat16(), drawn(EXPERTS, HIGH, WIDE).bfloat16(), drawn(EXPERTS, HIGH)
    gradients = []
    for product in (looped, grouped):
        leaves = [value.detach().bfloat16().requires_grad_() for value in (x, weight, bias)]
        product(leaves[0], torch.tensor(chosen), leaves[1], leaves[2]).float().square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert error(other.float(), one.float()) < 0.02


def test_a_softmax_over_the_chosen_is_that_over_all_divided_by_its_sum() -> None:
    logits = 2 * drawn(ROWS, EXPERTS)
    chosen, weights = route(logits, TOP)
    same, shares = route(logits, TOP, over_all=True, scale=3.0)
    greatest, where = torch.softmax(logits, -1).topk(TOP)
    assert torch.equal(chosen, where)
    assert torch.equal(same, where)
    torch.testing.assert_close(shares, 3 * greatest)
    torch.testing.assert_close(weights, greatest / greatest.sum(-1, keepdim=True))


def test_experts_come_from_the_groups_with_the_greatest_logits() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.9, -1.0, 0.8, 0.7]])  # groups of two: the second is open, then the third
    assert route(logits, 2, groups=(3, 1, 1))[0].tolist() == [[2, 3]]
    assert route(logits, 3, groups=(3, 2, 1))[0].tolist() == [[2, 4, 5]]
    assert route(logits, 2, groups=(3, 1, 2))[0].tolist() == [[4, 5]]


def test_the_weighted_sum_is_over_the_experts() -> None:
    x, weights = drawn(ROWS, TOP, WIDE), drawn(ROWS, TOP, seed=1)
    torch.testing.assert_close(weighted_sum(x, weights), torch.einsum("ncd,nc->nd", x, weights))


def test_a_sink_takes_its_share_and_gives_nothing() -> None:
    x, sink = 3 * drawn(2, 4, 6, 7), drawn(4, seed=1)
    total = x.exp().sum(-1, keepdim=True) + sink.exp()[:, None, None]
    torch.testing.assert_close(sink_softmax(x, sink), x.exp() / total)
    masked = x.masked_fill(torch.ones(6, 7, dtype=torch.bool).triu(1), -torch.inf)
    assert (sink_softmax(masked, sink)[..., 0, 1:] == 0).all()
    assert sink_softmax(torch.full((1, 4, 1, 3), -500.0), sink).isfinite().all()


def test_yarn_slows_the_pairs_between_the_two_counts_of_turns_in_step_with_their_index() -> None:
    # arXiv 2309.00071, section 3.2, with the index at which a pair turns so many times in the length.
    pairs, base, factor, length, slow, fast = 32, 10000.0, 8.0, 4096.0, 1.0, 32.0
    frequency = base ** -(torch.arange(pairs) / pairs)
    first, last = (pairs * math.log(length / (2 * math.pi * turns)) / math.log(base) for turns in (fast, slow))
    share = [min(max((index - first) / (last - first), 0.0), 1.0) for index in range(pairs)]
    wanted = torch.tensor([f * (1 - s) + f / factor * s for f, s in zip(frequency.tolist(), share, strict=True)])
    torch.testing.assert_close(slowed(frequency, factor, length, slow, fast, base, "pairs"), wanted)
    whole = slowed(frequency, factor, length, slow, fast, base, "whole_pairs")
    kept, slowest = math.floor(first), math.ceil(last)
    torch.testing.assert_close(whole[: kept + 1], frequency[: kept + 1])
    torch.testing.assert_close(whole[slowest:], frequency[slowest:] / factor)


@pytest.mark.parametrize("spec", MIXTURES)
def test_a_token_is_routed_by_itself_and_the_past_alone(spec: str) -> None:
    model, before = bg.compile(spec, size="tiny"), tokens()
    after = before.clone()
    after[:, 12:] = 7
    with torch.no_grad():
        # Products of other counts of rows round otherwise.
        assert error(model(before)[:, :12], model(after)[:, :12]) < 1e-5


@pytest.mark.parametrize("spec", ["mixtral", "gpt_oss", "deepseek_v2"])
def test_the_flops_are_those_of_the_chosen_experts(spec: str) -> None:
    model = bg.compile(spec, size="tiny")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens())
    assert counter.get_total_flops() == bg.cost(model.graph).flops(2, 20)
    more = bg.load(spec, size="tiny", n_experts=48)
    assert more.dims.sizes["n_experts"].known == 48
    router = 2 * 64 * (48 - (model.graph.dims.sizes["n_experts"].known or 0)) * 2 * 20
    layers = 2  # that have a router, in each of the tiny sizes
    assert bg.cost(more).flops(2, 20) == bg.cost(model.graph).flops(2, 20) + layers * router


def mixture(x: Tensor, router: Tensor, weight: Tensor) -> Tensor:
    chosen, weights = route(x @ router, TOP)
    return weighted_sum(expert_linear(x, chosen, weight), weights)


def test_experts_compile_to_one_graph_in_bf16() -> None:
    leaves = [drawn(ROWS, WIDE), drawn(WIDE, EXPERTS, seed=1), drawn(EXPERTS, HIGH, WIDE, seed=2)]
    found = []
    for call in (mixture, torch.compile(mixture, backend="aot_eager", fullgraph=True)):
        given = [leaf.bfloat16().requires_grad_() for leaf in leaves]
        y = call(*given)
        y.float().square().sum().backward()
        found.append([y, *(leaf.grad for leaf in given)])
    for compiled, plain in zip(*found, strict=True):
        assert error(compiled.float(), plain.float()) < 0.02


@pytest.mark.parametrize("recompute", [[], ["ff"]])
def test_biases_of_experts_follow_their_loads(recompute: list[str]) -> None:
    # arXiv 2408.15664, section 3: after a step the bias of an expert rises by u where its load is below the mean.
    model = bg.compile("deepseek_v3", size="tiny", recompute=recompute)
    (load,) = [value for name, value in model.named_buffers() if name.endswith("route.load")]
    (bias,) = [value for name, value in model.named_buffers() if name.endswith("route.bias")]
    model.eval()(tokens())
    assert load.sum() == 0
    model.train()(tokens()).sum().backward()
    rows = 3 * tokens().numel()
    assert load.sum() == (2 * rows if recompute else rows)
    expected = 0.001 * (load.mean() - load).sign()
    assert expected.abs().sum() > 0
    model.after_step()
    torch.testing.assert_close(bias, expected)
    assert load.sum() == 0
    assert sum(name.endswith(("bias", "load")) for name in model.state_dict()) == 1


def test_biases_choose_and_do_not_weigh() -> None:
    logits, bias = drawn(ROWS, EXPERTS), torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0])
    chosen, weights = route(logits, TOP, sigmoid=True, over_all=True, bias_E=bias)
    assert (chosen[:, 0] == 2).all()
    torch.testing.assert_close(weights, logits.sigmoid().gather(-1, chosen))


@pytest.mark.parametrize("lowering", ["sdpa", "blockwise"])
def test_latent_attention_is_lowered_like_any_other(lowering: str) -> None:
    plain = bg.compile("deepseek_v2_lite", size="tiny", seed=1, lowering="explicit")
    model = bg.compile("deepseek_v2_lite", size="tiny", seed=1, lowering=lowering)
    with torch.no_grad():
        for one, other in zip(plain.parameters(), model.parameters(), strict=True):
            other.copy_(one.mul_(4 if one.dim() > 1 else 1))
        assert error(model(tokens()), plain(tokens())) < 1e-5


def test_a_core_with_a_sink_is_lowered_node_by_node_and_says_why() -> None:
    why = "attn.softmax trains a sink, for which the kernels have no place"
    decision, _ = bg.compile("gpt_oss", size="tiny").graph.decisions
    assert decision.lowering == "explicit"
    assert decision.others["blockwise"] == why
    with pytest.raises(SpecError, match=f"cannot be lowered to sdpa: {why}"):
        bg.compile("gpt_oss", size="tiny", lowering="sdpa")

"""Laws that hold for every op in the table, each tried on the op's own example and on variants of its fields."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from samples import SAMPLES, compiled, graph_of, inputs_of, outputs
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import blockgraph as bg
from blockgraph.caching import refusals
from blockgraph.errors import OpError
from blockgraph.kernels.cache import Cache
from blockgraph.ops import OPS
from blockgraph.types import Type
from runners.launch import Launch
from runners.probing import Probing
from runners.world import World

SIZES = ((1, 1), (2, 5), (3, 8))

every_sample = pytest.mark.parametrize("sample", SAMPLES)


@every_sample
@pytest.mark.parametrize(("batch", "seq"), SIZES)
def test_the_shape_rule_tells_the_real_shapes(sample: str, batch: int, seq: int) -> None:
    graph = graph_of(sample)
    with torch.device("meta"):
        real = outputs(bg.compile(graph), inputs_of(graph, batch, seq, "meta"))
    kinds = [graph.type_of(ref) for ref in graph.outputs.values()]
    expected = [[size.at(batch=batch, seq=seq) for size in kind.sizes] for kind in kinds if kind is not None]
    assert [list(value.shape) for value in real] == expected


# Ops that take indices where others take real numbers: to look something up, or to put them elsewhere.
OF_INDICES = {
    "embedding", "expert_linear", "balance_loss", "patches", "split_heads", "repeat_heads",
    "merge_heads", "split", "concat", "add", "multiply",
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_indices_enter_where_an_op_has_a_use_for_them_and_stay_what_they_are(name: str) -> None:
    graph = graph_of(name)
    node = next(node for node in graph.nodes.values() if node.op.name == name)
    kinds = [kind for ref in node.data().values() if (kind := graph.type_of(ref)) is not None]
    ids = [replace(kind, kind="int") for kind in kinds]
    if node.blocks or not kinds:
        return
    try:
        given = node.op.infer(*ids)
    except OpError:
        given = None
    accepted = given is not None or any(kind.kind == "int" for kind in kinds)
    assert accepted == (name in OF_INDICES)
    if given is not None and node.op.name != "embedding":
        assert {kind.kind for kind in (given.values() if isinstance(given, dict) else [given])} == {"int"}


@every_sample
@pytest.mark.parametrize(("batch", "seq"), SIZES)
def test_the_flops_are_those_that_torch_counts(sample: str, batch: int, seq: int) -> None:
    graph = graph_of(sample)
    with torch.device("meta"):
        module, inputs = bg.compile(graph), inputs_of(graph, batch, seq, "meta")
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
    assert bg.cost(graph).flops(batch, seq) == counter.get_total_flops()


@every_sample
def test_the_parameters_have_the_declared_shapes_and_count(sample: str) -> None:
    module, named = compiled(sample), dict(compiled(sample).named_parameters())
    assert {name: tuple(value.shape) for name, value in named.items()} == {
        name: weight.shape for name, weight in module.weights.items()
    }
    assert sum(value.numel() for value in named.values()) == bg.cost(graph_of(sample)).parameters


@every_sample
def test_no_parameter_is_without_an_axis(sample: str) -> None:
    assert [name for name, value in compiled(sample).named_parameters() if value.dim() == 0] == []


@every_sample
def test_nothing_is_left_unset_after_meta(sample: str) -> None:
    direct = compiled(sample)
    with torch.device("meta"):
        module = bg.compile(graph_of(sample))
    module.to_empty(device="cpu")
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, value in tensors.items():
            if not name.startswith("constants."):
                value.fill_(math.nan)
    module.initialize(1)
    expected = dict(direct.named_parameters()) | dict(direct.named_buffers())
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


@every_sample
def test_bf16_goes_in_and_out_and_stays_near_fp32(sample: str) -> None:
    graph, module = graph_of(sample), compiled(sample)
    inputs = inputs_of(graph, 2, 5)
    expected = outputs(module, inputs)[-1]
    module.compute_dtype = torch.bfloat16
    found = outputs(module, [x.bfloat16() if x.is_floating_point() else x for x in inputs])[-1]
    assert found.dtype == (torch.bfloat16 if found.dim() else torch.float32)  # a loss has no axis
    finite = expected.isfinite()
    assert torch.equal(found.isfinite(), finite)
    bound = 0.03 * expected[finite].abs().max()
    assert (found.float() - expected)[finite].abs().max() <= bound


@every_sample
def test_every_parameter_has_a_finite_gradient_in_fp32(sample: str) -> None:
    module, graph = compiled(sample), graph_of(sample)
    inputs = [x.bfloat16().requires_grad_() if x.is_floating_point() else x for x in inputs_of(graph, 2, 5)]
    last = outputs(module, inputs)[-1]
    last.masked_fill(last.isinf(), 0.0).square().sum().backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, name
        assert value.grad.dtype == torch.float32, name
    for value in (*inputs, *module.parameters()):
        assert value.grad is None or value.grad.isfinite().all()


@every_sample
def test_a_copy_computes_the_same_and_shares_nothing(sample: str) -> None:
    module, inputs = compiled(sample), inputs_of(graph_of(sample), 2, 5)
    twin = copy.deepcopy(module)
    for found, expected in zip(outputs(twin, inputs), outputs(module, inputs), strict=True):
        assert torch.equal(found, expected)
    assert not {x.data_ptr() for x in twin.parameters()} & {x.data_ptr() for x in module.parameters()}


# Samples with no rows of new tokens, or whose rows cannot be computed alone; every other op says that its can.
WHOLE_ALONE = {
    "rope, base by length", "soft_clip", "soft_temp, by length", "scale, by layer and length", "matmul, by name",
    "sigmoid, in the place of softmax", "matmul, plain", "matmul, transpose a", "prepend", "prepend, three", "select",
    "select, the first", "learned_positions, behind a token in front",
    "learned_positions, of patches", "patches", "balance_loss", "balance_loss, of sequences", "z_loss",
}  # fmt: skip


@every_sample
def test_new_tokens_alone_give_their_rows(sample: str) -> None:
    graph = graph_of(sample)
    assert bool(refusals(graph)) == (sample in WHOLE_ALONE), refusals(graph)
    if sample in WHOLE_ALONE:
        return
    module, inputs, kept = bg.compile(graph, seed=1, cached=True).eval(), inputs_of(graph, 2, 8), Cache(8)
    expected = outputs(module, inputs)
    for first, end in ((0, 3), (3, 4), (4, 8)):
        given = [rows_of(x, kind, first, end) for x, kind in zip(inputs, graph.inputs.values(), strict=True)]
        found = outputs(lambda *parts: module.extend(*parts, kept), given)
        kept.advance(end - first)
        for ref, rows, whole in zip(graph.outputs.values(), found, expected, strict=True):
            torch.testing.assert_close(rows, rows_of(whole, graph.type_of(ref), first, end), rtol=0, atol=1e-5)


def rows_of(whole: Tensor, kind: Type | None, first: int, end: int) -> Tensor:
    """The rows of some tokens; of scores for the keys up to the last of them."""
    assert kind is not None
    for count, axis in enumerate(axis for axis, size in enumerate(kind.sizes) if str(size) == "seq"):
        whole = whole.narrow(axis, 0, end) if count else whole.narrow(axis, first, end - first)
    return whole


@every_sample
def test_acting_after_a_step_leaves_everything_finite_and_repeats(sample: str) -> None:
    module, twin = compiled(sample), compiled(sample)
    for either in (module, twin):
        either.after_step()
    for (name, value), other in zip(module.state_dict().items(), twin.state_dict().values(), strict=True):
        assert value.isfinite().all(), name
        assert torch.equal(value, other), name


FAR = (300.0 + 2.0 * torch.arange(24)).repeat(1, 2, 1)  # bf16 keeps eight bits, so 300 + 1 is 300
INSIDE: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
    "ln: {op: layer_norm, in: x}": (FAR, lambda x: (x - mean(x)) / (mean((x - mean(x)).square()) + 1e-5).sqrt()),
    "ln: {op: rms_norm, in: x}": (FAR, lambda x: x / (mean(x.square()) + 1e-5).sqrt()),
    "ln: {op: rms_norm, in: x, gain: 1+w, init: 0.001}": (FAR, lambda x: x / mean(x.square()).sqrt() * 1.001),
    "ln: {op: l2_norm, in: x, gain: none}": (FAR * 0.37, lambda x: x / (24 * mean(x.square())).sqrt()),
    "hold: {op: hold_norm, in: x, target: 3}": (FAR, lambda x: 3 * x / mean(x.square()).sqrt()),
    "cap: {op: soft_cap, in: x, cap: 50}": (FAR / 8, lambda x: 50 * torch.tanh(x / 50)),
    "softmax: {op: softmax, in: x}": (FAR / 64, lambda x: x.exp() / (24 * mean(x.exp()))),
    "clip: {op: soft_clip, in: x}": (FAR / 9000, lambda x: ((1.03 + 0.03) * x - 0.03).clamp(0, 1)),
}


def mean(x: Tensor) -> Tensor:
    return x.mean(dim=-1, keepdim=True)


@pytest.mark.parametrize("text", INSIDE)
def test_norms_caps_and_softmax_compute_in_fp32(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLES, text, text)
    value, formula = INSIDE[text]
    x = value.bfloat16()
    exact, inside_bf16, found = formula(x.double()), formula(x), compiled(text)(x)
    assert found.dtype == inside_bf16.dtype == torch.bfloat16
    rounding = 1.02 * 2**-8 * exact.abs() + 1e-6  # half of the last bit: nothing but the output is rounded
    assert ((found - exact).abs() <= rounding).all()
    assert ((inside_bf16 - exact).abs() > rounding).any()


@every_sample
def test_every_probe_gives_a_number_and_recording_changes_no_output(sample: str) -> None:
    graph = graph_of(sample)
    module, plain = bg.compile(graph, probes=["**"]), compiled(sample)
    module.load_state_dict(plain.state_dict())
    inputs = inputs_of(graph, *SIZES[1])
    probing = Probing(module, World(Launch(), torch.device("cpu")))
    probing.start()
    given = outputs(module, [x.clone().requires_grad_(x.is_floating_point()) for x in inputs])
    assert all(torch.equal(a, b) for a, b in zip(given, outputs(plain, inputs), strict=True))
    torch.autograd.backward([value.sum() for value in given if value.requires_grad])
    probing.fold()
    probing.weights()
    found = probing.finish()
    infinite = any(value.isinf().any() for value in given)
    assert [name for name, value in found.items() if math.isnan(value) and not (infinite and "std" in name)] == [
        name for name in found if name.endswith("update_rms")
    ]

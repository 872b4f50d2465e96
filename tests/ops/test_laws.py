"""Laws that hold for every op in the table, each tried on the op's own example and on variants of its fields."""

import copy
import math
import re
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import blockgraph as bg
from blockgraph import ops as package
from blockgraph.commands.ops import described
from blockgraph.graph import Graph
from blockgraph.op import Op, Role
from blockgraph.ops import OPS

DIMS = {"n_layers": 3, "d_model": 24, "n_heads": 3, "d_head": 8, "d_ff": 40, "vocab": 17}
INPUTS = {
    "x": "[batch, seq, d_model]",
    "tokens": "[batch, seq]",
    "q": "[batch, n_heads, seq, d_head]",
    "k": "[batch, n_heads, seq, d_head]",
}
SCORES = "scores: {op: matmul, in: [q, k], transpose: b}"
SIZES = ((1, 1), (2, 5), (3, 8))

VARIANTS = {
    "layer_norm, no gain": "ln: {op: layer_norm, in: x, gain: none}",
    "layer_norm, 1+w": "ln: {op: layer_norm, in: x, gain: 1+w, eps: 1e-6}",
    "layer_norm, bias": "ln: {op: layer_norm, in: x, bias: true}",
    "layer_norm, bias alone": "ln: {op: layer_norm, in: x, bias: true, gain: none}",
    "layer_norm, per head": "ln: {op: layer_norm, in: q}",
    "layer_norm, full width": "ln: {op: layer_norm, in: q, width: full}",
    "layer_norm, full width and bias": "ln: {op: layer_norm, in: q, width: full, bias: true, gain: 1+w}",
    "layer_norm, a gain for each head": "ln: {op: layer_norm, in: q, shared: false}",
    "layer_norm, a gain and a bias for each head": "ln: {op: layer_norm, in: q, shared: false, bias: true, gain: 1+w}",
    "rms_norm, bias": "ln: {op: rms_norm, in: x, bias: true}",
    "rms_norm, full width": "ln: {op: rms_norm, in: q, width: full}",
    "rms_norm, a gain for each head": "ln: {op: rms_norm, in: q, shared: false}",
    "l2_norm, gain": "ln: {op: l2_norm, in: q}",
    "l2_norm, bias": "ln: {op: l2_norm, in: q, bias: true}",
    "l2_norm, full width": "ln: {op: l2_norm, in: q, width: full, gain: 1+w}",
    "rope, interleaved": "rope: {op: rope, in: q, pairs: interleaved}",
    "rope, part of the width": "rope: {op: rope, in: q, width: 4, base: 500}",
    "rope, part of the width, interleaved": "rope: {op: rope, in: q, width: d_head / 2, pairs: interleaved}",
    "rope, base by length": "rope: {op: rope, in: q, base: 10000 + seq}",
    "rope, base by layer": "rope: {op: rope, in: q, base: 10000 * (layer + 1)}",
    "matmul, plain": f"{SCORES}\nmm: {{op: matmul, in: [scores, k]}}",
    "matmul, transpose a": "mm: {op: matmul, in: [q, k], transpose: a}",
    "matmul, by name": "mm: {op: matmul, in: {b: k, a: q}, transpose: b, scale: 1 / sqrt(seq)}",
    "causal_mask, window": "mask: {op: causal_mask, in: scores, window: 3}",
    "linear, bias": "fc: {op: linear, in: x, out: d_ff, bias: true}",
    "linear, zeros": "fc: {op: linear, in: x, out: d_ff, init: zeros}",
    "linear, init by layer": "fc: {op: linear, in: x, out: d_ff, init: {trunc_normal: 0.02 / sqrt(layer + 1)}}",
    "linear, uniform": "fc: {op: linear, in: x, out: d_ff, init: {uniform: 0.1}, decay: false, lr: 1 / d_model}",
    "linear, unit rows": "fc: {op: linear, in: x, out: d_ff, after_step: unit_rows}",
    "linear, unit columns": "fc: {op: linear, in: x, out: d_ff, after_step: unit_columns, bias: true}",
    "linear, wired to another": "a: {op: linear, in: x, out: d_model}\nb: {op: linear, out: d_model, weight: a.weight}",
    "embedding, unit rows": "embed: {op: embedding, in: tokens, rows: vocab, width: d_model, after_step: unit_rows}",
    "sigma_reparam, gamma is sigma": "fc: {op: linear, in: x, out: d_ff, weight: {op: sigma_reparam, init: sigma}}",
    "sigma_reparam, gamma by layer": "fc: {op: linear, in: x, out: 8, weight: {op: sigma_reparam, init: layer + 1}}",
    "soft_clip, as in the paper": "mask: {op: causal_mask, in: scores}\nsoftmax: {op: softmax}\nclip: {op: soft_clip}",
    "soft_cap, by layer": "cap: {op: soft_cap, in: scores, cap: 30 + layer}",
    "soft_temp, by length": "temp: {op: soft_temp, in: scores, beta: log(seq + 1)}",
    "scale, by layer and length": "scale: {op: scale, in: x, by: 1 / sqrt((layer + 1) * seq)}",
    "split_heads, one part": "heads: {op: split_heads, in: x, heads: n_heads}",
    "split_heads, one part by name": "heads: {op: split_heads, in: x, heads: n_heads, into: [a]}",
    "add, three": "sum: {op: add, in: [x, x, x]}",
    "multiply, three": "product: {op: multiply, in: [x, x, x]}",
    "layer_scale, from zero": "scale: {op: layer_scale, in: x, init: 0}",
    "parameter, unit rows": (
        "w: {op: parameter, shape: [d_ff, d_model], after_step: unit_rows}\n"
        "fc: {op: linear, in: x, out: d_ff, weight: w}"
    ),
    "stack, shared": "layers: {op: stack, in: x, of: sigma_reparam, repeat: 3, share: [attn.qkv, ff]}",
}
SAMPLES = {name: op.example for name, op in OPS.items()} | VARIANTS
every_sample = pytest.mark.parametrize("sample", SAMPLES)
every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


@cache
def graph_of(sample: str) -> Graph:
    """The sample as a block whose outputs are all its nodes; `scores` stands for the product of q and k."""
    body = SAMPLES[sample]
    if "scores" in read_by(body) and SCORES not in body:
        body = f"{SCORES}\n{body}"
    inputs = {name: size for name, size in INPUTS.items() if name in read_by(body)}
    lines = ["block: law", "causal: false", f"dims: {yaml.safe_dump(DIMS, default_flow_style=True, width=999)}inputs:"]
    lines += [f"  {name}: {size}" for name, size in inputs.items()]
    lines += ["nodes:", *(f"  {line}" for line in body.splitlines())]
    lines += ["outputs:", *(f"  {name}: {value}" for name, value in values_of(body).items())]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "law.yaml"
        path.write_text("\n".join(lines) + "\n")
        return bg.load(path)


def read_by(body: str) -> set[str]:
    """Every name that a node's `in` holds."""
    found: set[str] = set()
    for node in yaml.safe_load(body).values():
        given = node.get("in", [])
        found |= set(given.values() if isinstance(given, dict) else [given] if isinstance(given, str) else given)
    return found


def values_of(body: str) -> dict[str, str]:
    """Every value that the nodes give, under a name of its own."""
    found = {}
    for name, node in yaml.safe_load(body).items():
        ports = node.get("into", [])
        found |= {f"{name}_{port}": f"{name}.{port}" for port in ports} if len(ports) > 1 else {f"{name}_out": name}
    return found


def compiled(sample: str) -> nn.Module:
    return bg.compile(graph_of(sample), seed=1)


def inputs_of(graph: Graph, batch: int, seq: int, device: str = "cpu") -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    made = []
    for kind in graph.inputs.values():
        sizes = [size.at(batch=batch, seq=seq) for size in kind.sizes]
        whole = torch.randint(DIMS["vocab"], sizes, generator=draw)
        made.append((whole if kind.kind == "int" else torch.randn(sizes, generator=draw)).to(device))
    return made


def outputs(module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    given = module(*inputs)
    return list(given) if isinstance(given, tuple) else [given]


@every_sample
@pytest.mark.parametrize(("batch", "seq"), SIZES)
def test_the_shape_rule_tells_the_real_shapes(sample: str, batch: int, seq: int) -> None:
    graph = graph_of(sample)
    with torch.device("meta"):
        real = outputs(bg.compile(graph), inputs_of(graph, batch, seq, "meta"))
    kinds = [graph.type_of(ref) for ref in graph.outputs.values()]
    expected = [[size.at(batch=batch, seq=seq) for size in kind.sizes] for kind in kinds if kind is not None]
    assert [list(value.shape) for value in real] == expected


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
            if not name.split(".")[0] == "constants":
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
    assert found.dtype == torch.bfloat16
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


@every_sample
def test_acting_after_a_step_leaves_everything_finite_and_repeats(sample: str) -> None:
    module, twin = compiled(sample), compiled(sample)
    for either in (module, twin):
        either.after_step()
    for (name, value), other in zip(module.state_dict().items(), twin.state_dict().values(), strict=True):
        assert value.isfinite().all(), name
        assert torch.equal(value, other), name


@every_op
def test_an_op_is_documented(op: type[Op]) -> None:
    doc = op.__doc__ or ""
    assert op.__dict__.get("__doc__"), "has no docstring of its own"
    assert re.search("`[^`]+`", doc), f"no formula between backticks: {doc}"
    assert "->" in doc, f"no shapes as [...] -> [...]: {doc}"
    assert op.example
    page = "\n".join(described(op))
    for name, field in op.model_fields.items():
        assert field.description, f"{name} has no description"
        assert re.search(rf"^  {name} +(required|default .+);", page, re.MULTILINE), page
    for method in ("infer", "lower", "flops", "parameters", "states", "on_init", "on_step"):
        assert getattr(op, method).__doc__, method


@every_op
def test_an_op_is_called_like_its_file(op: type[Op]) -> None:
    assert op.__module__ == f"blockgraph.ops.{op.name}"


def test_the_table_lists_every_file() -> None:
    files = {path.stem for path in Path(next(iter(package.__path__))).glob("*.py")} - {"__init__", "norm"}
    assert set(OPS) == files


@every_op
def test_an_op_says_how_it_is_drawn(op: type[Op]) -> None:
    assert op.style.role in typing.get_args(Role)
    node = next(node for _, _, node in graph_of(op.name).walk() if node.op.name == op.name)
    assert isinstance(node.op.label(), str)
    assert "{" not in node.op.label()


FAR = (300.0 + 2.0 * torch.arange(24)).repeat(1, 2, 1)  # bf16 keeps eight bits, so 300 + 1 is 300
INSIDE: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
    "ln: {op: layer_norm, in: x}": (FAR, lambda x: (x - mean(x)) / (mean((x - mean(x)).square()) + 1e-5).sqrt()),
    "ln: {op: rms_norm, in: x}": (FAR, lambda x: x / (mean(x.square()) + 1e-5).sqrt()),
    "ln: {op: rms_norm, in: x, gain: 1+w, init: 0.001}": (FAR, lambda x: x / mean(x.square()).sqrt() * 1.001),
    "ln: {op: l2_norm, in: x, gain: none}": (FAR * 0.37, lambda x: x / (24 * mean(x.square())).sqrt()),
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

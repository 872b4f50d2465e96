"""Samples of every op as small blocks: its own example, and variants of its fields."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import blockgraph as bg
from blockgraph.graph import Graph
from blockgraph.ops import OPS

DIMS = {"n_layers": 3, "d_model": 24, "n_heads": 3, "d_head": 8, "d_ff": 40, "vocab": 17}
INPUTS = {
    "x": "[batch, seq, d_model]",
    "tokens": "[batch, seq]",
    "q": "[batch, n_heads, seq, d_head]",
    "k": "[batch, n_heads, seq, d_head]",
    "image": "[batch, 3, 8, 12]",
}
SCORES = "scores: {op: matmul, in: [q, k], transpose: b}"

ROUTER = "router: {op: linear, in: x, out: 6}"

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
    "hold_norm, a constant factor": "hold: {op: hold_norm, in: x, target: 3, through: false}",
    "hold_norm, by layer": "hold: {op: hold_norm, in: q, target: 1 / sqrt(layer + 1)}",
    "rope, interleaved": "rope: {op: rope, in: q, pairs: interleaved}",
    "rope, part of the width": "rope: {op: rope, in: q, width: 4, base: 500}",
    "rope, part of the width, interleaved": "rope: {op: rope, in: q, width: d_head / 2, pairs: interleaved}",
    "rope, base by length": "rope: {op: rope, in: q, base: 10000 + seq}",
    "rope, base by layer": "rope: {op: rope, in: q, base: 10000 * (layer + 1)}",
    "rope, all pairs slowed": "rope: {op: rope, in: q, factor: 4}",
    "rope, slow pairs slowed": "rope: {op: rope, in: q, factor: 4, length: 16, fast: 2.5}",
    "gelu, by a tanh": "act: {op: gelu, in: x, approximate: tanh}",
    "learned_positions, unit rows": "positions: {op: learned_positions, in: x, rows: 9, after_step: unit_rows}",
    "matmul, plain": f"{SCORES}\nmm: {{op: matmul, in: [scores, k]}}",
    "matmul, transpose a": "mm: {op: matmul, in: [q, k], transpose: a}",
    "matmul, by name": "mm: {op: matmul, in: {b: k, a: q}, transpose: b, scale: 1 / sqrt(seq)}",
    "relative_bias, both sides": "bias: {op: relative_bias, in: scores, buckets: 8, distance: 5, both_sides: true}",
    "prepend, three": "registers: {op: prepend, in: x, count: 3, init: zeros, decay: true}",
    "select, the first": "first: {op: select, in: x}",
    "learned_positions, behind a token in front": (
        "front: {op: prepend, in: x}\npositions: {op: learned_positions, rows: 9}"
    ),
    "learned_positions, of patches": (
        "parts: {op: patches, in: image, side: 4}\npositions: {op: learned_positions, rows: 6}"
    ),
    "mix_streams, static": "mix: {op: mix_streams, in: q, streams: 5, init: {identity: 0.5}}",
    "mix_streams, one by layer": "mix: {op: mix_streams, in: q, streams: 1, init: {one_hot: 2 * layer + 1}}",
    "mix_streams, one gain for two": (
        "by: {op: linear, in: q, out: 3}\na: {op: mix_streams, in: [q, by], streams: 3}\n"
        "b: {op: mix_streams, in: [a, by], streams: 3, gain: a.gain}"
    ),
    "spread_streams, dynamic": (
        "by: {op: linear, in: q, out: 1}\nspread: {op: spread_streams, in: [x, by], streams: n_heads}"
    ),
    "spread_streams, copies": "copies: {op: spread_streams, in: x, streams: 2, trained: false}",
    "causal_mask, window": "mask: {op: causal_mask, in: scores, window: 3}",
    "causal_mask, documents": "mask: {op: causal_mask, in: [scores, tokens]}",
    "causal_mask, documents and window": "mask: {op: causal_mask, in: {x: scores, documents: tokens}, window: 3}",
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
    "sigma_reparam, of experts": (
        f"{ROUTER}\nroute: {{op: route, top: 2}}\n"
        "up: {op: expert_linear, in: [x, route.chosen], experts: 6, out: 8, weight: {op: sigma_reparam, init: sigma}}\n"
        "sum: {op: weighted_sum, in: [up, route.weights]}"
    ),
    "soft_clip, as in the paper": "mask: {op: causal_mask, in: scores}\nsoftmax: {op: softmax}\nclip: {op: soft_clip}",
    "soft_cap, by layer": "cap: {op: soft_cap, in: scores, cap: 30 + layer}",
    "soft_temp, by length": "temp: {op: soft_temp, in: scores, beta: log(seq + 1)}",
    "scale, by layer and length": "scale: {op: scale, in: x, by: 1 / sqrt((layer + 1) * seq)}",
    "split_heads, one part": "heads: {op: split_heads, in: x, heads: n_heads}",
    "split_heads, one part by name": "heads: {op: split_heads, in: x, heads: n_heads, into: [a]}",
    "add, three": "sum: {op: add, in: [x, x, x]}",
    "multiply, three": "product: {op: multiply, in: [x, x, x]}",
    "layer_scale, one gain": "scale: {op: layer_scale, in: x, shared: true}",
    "layer_scale, absolute": "scale: {op: layer_scale, in: x, absolute: true, init: -0.5}",
    "sigmoid, in the place of softmax": "mask: {op: causal_mask, in: scores}\ngate: {op: sigmoid, shift: -log(seq)}",
    "layer_scale, from zero": "scale: {op: layer_scale, in: x, init: 0}",
    "silu, steeper": "act: {op: silu, in: x, slope: 1.702}",
    "clamp, from above": "clamp: {op: clamp, in: x, most: 0.5}",
    "concat, three": "all: {op: concat, in: [x, x, x]}",
    "rope, slowed by pairs": "rope: {op: rope, in: q, factor: 4, length: 16, ramp: pairs}",
    "rope, slowed by whole pairs": "rope: {op: rope, in: q, factor: 4, length: 16, ramp: whole_pairs}",
    "dynamic_tanh, no bias": "ln: {op: dynamic_tanh, in: x, alpha: 0.2, bias: false}",
    "route, over all": f"{ROUTER}\nroute: {{op: route, top: 3, over: all, scale: 2.5}}",
    "route, groups": f"{ROUTER}\nroute: {{op: route, top: 2, groups: 3, top_groups: 1}}",
    "route, sigmoid, groups and balance": (
        f"{ROUTER}\n"
        "route: {op: route, top: 2, scores: sigmoid, groups: 2, top_groups: 1, group_scores: 2, balance: 0.001}"
    ),
    "expert_linear, bias": (
        f"{ROUTER}\nroute: {{op: route, top: 2}}\n"
        "up: {op: expert_linear, in: [x, route.chosen], experts: 6, out: d_ff, bias: true}\n"
        "sum: {op: weighted_sum, in: [up, route.weights]}"
    ),
    "expert_linear, one of many": (
        "router: {op: linear, in: x, out: 99}\nroute: {op: route, top: 1, over: all}\n"
        "up: {op: expert_linear, in: [x, route.chosen], experts: 99, out: d_ff}\n"
        "sum: {op: weighted_sum, in: [up, route.weights]}"
    ),
    "balance_loss, of sequences": (
        f"{ROUTER}\nroute: {{op: route, top: 2, scores: sigmoid}}\n"
        "balance: {op: balance_loss, in: [router, route.chosen], factor: 1 + layer, scores: sigmoid, within: sequence}"
    ),
    "parameter, unit rows": (
        "w: {op: parameter, shape: [d_ff, d_model], after_step: unit_rows}\n"
        "fc: {op: linear, in: x, out: d_ff, weight: w}"
    ),
    "stack, shared": "layers: {op: stack, in: x, of: sigma_reparam, repeat: 3, share: [attn.qkv, ff]}",
}
SAMPLES = {name: op.example for name, op in OPS.items()} | VARIANTS


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
        ports = node.get("into", OPS[node["op"]].outputs)
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


def outputs(module: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    given = module(*inputs)
    return list(given) if isinstance(given, tuple) else [given]

"""Compiled modules as modules of torch: names, copies, pickles, meta, recomputation, functional calls."""

import copy
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from oracle import METHODS, OracleGPT
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

import blockgraph as bg
from blockgraph.names import MODULE_NAMES

SPECS = Path(__file__).parent / "specs"
SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4, "vocab": 61}
TOKENS = torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(0))

every_method = pytest.mark.parametrize("method", METHODS)


def model(method: str, seed: int = 0) -> nn.Module:
    return bg.compile("gpt", block=method, seed=seed, **SIZES)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    module(TOKENS).square().sum().backward()
    return {name.replace("_checkpoint_wrapped_module.", ""): value.grad for name, value in module.named_parameters()}


@every_method
def test_the_state_dict_has_the_names_of_the_spec(method: str) -> None:
    ours, theirs = model(method), OracleGPT(method, 61, 2, 32, 4)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}
    if method == "layer_scale":
        assert {"layers.1.attn.scale.weight", "layers.1.ff.scale.weight"} <= shapes.keys()
    if method == "sigma_reparam":
        assert {f"layers.1.attn.qkv.{name}" for name in ("weight", "gamma", "u", "v")} <= shapes.keys()


def test_names_that_every_compiled_module_has_cannot_be_nodes() -> None:
    probed = bg.compile("baseline", d_model=32, n_heads=2, probes=("**",))
    public = {name for name in dir(probed) if not name.startswith("_")} - {*dict(probed.named_children())}
    assert public <= MODULE_NAMES
    assert "constants" in MODULE_NAMES


@every_method
def test_a_state_dict_goes_from_one_model_to_another(method: str) -> None:
    first, second = model(method, seed=1), model(method, seed=2)
    assert not torch.equal(first(TOKENS), second(TOKENS))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(TOKENS), second(TOKENS))


@pytest.mark.parametrize("spec", [*METHODS, "depth", "streams", "shared", "weight_ports"])
def test_meta_and_to_empty_end_where_direct_construction_does(spec: str) -> None:
    build = partial(model, spec) if spec in METHODS else partial(bg.compile, SPECS / f"{spec}.yaml")
    direct = build(seed=3)
    with torch.device("meta"):
        late = build()
    assert {value.device.type for value in (*late.parameters(), *late.buffers())} == {"meta"}
    late.to_empty(device="cpu")
    late.initialize(3)
    expected = dict(direct.named_parameters()) | dict(direct.named_buffers())
    found = dict(late.named_parameters()) | dict(late.named_buffers())
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_constants_of_a_layer_survive_to_empty_and_a_loaded_state() -> None:
    direct = bg.compile(SPECS / "depth.yaml")
    with torch.device("meta"):
        late = bg.compile(SPECS / "depth.yaml")
    late.to_empty(device="cpu")
    late.load_state_dict(direct.state_dict())
    assert not [name for name in late.state_dict() if "constants" in name]
    assert torch.equal(late(TOKENS), direct(TOKENS))


@every_method
def test_a_deep_copy_trains_on_its_own(method: str) -> None:
    first = model(method)
    before = first(TOKENS)
    second = copy.deepcopy(first)
    assert torch.equal(second(TOKENS), before)
    with torch.no_grad():
        second.embed.weight.zero_()
    assert torch.equal(first(TOKENS), before)
    assert second.source == first.source
    assert second.weights == first.weights


def test_a_copy_of_a_model_that_shares_still_shares() -> None:
    twin = copy.deepcopy(bg.compile(SPECS / "shared.yaml"))
    assert twin.layers[0].ff is twin.layers[2].ff
    assert twin.layers[0].ff.fc1.weight is twin.layers[1].ff.fc1.weight


UNPICKLE = """
import pickle, sys, torch
model, block, tokens, expected = pickle.load(open(sys.argv[1], "rb"))
assert torch.equal(model(tokens), expected)
assert block(torch.zeros(1, 3, 32)).shape == (1, 3, 32)
assert "class SigmaReparam(GraphModule)" in model.source
assert len(model.weights) == len(dict(model.named_parameters()))
"""


def test_a_pickle_carries_its_text_to_a_process_that_never_compiled_it(tmp_path: Path) -> None:
    made, other = model("sigma_reparam"), model("layer_scale")
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((made, other.layers[1], TOKENS, made(TOKENS).detach())))
    done = subprocess.run([sys.executable, "-c", UNPICKLE, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@every_method
def test_a_functional_call_takes_other_parameters(method: str) -> None:
    first, second = model(method, seed=1), model(method, seed=2)
    state = dict(second.named_parameters()) | dict(second.named_buffers())
    assert torch.equal(torch.func.functional_call(first, state, (TOKENS,)), second(TOKENS))


@every_method
def test_recomputing_blocks_gives_the_same_gradients(method: str) -> None:
    plain, wrapped, called = model(method), model(method), model(method)
    for index, block in enumerate(wrapped.layers):
        wrapped.layers[index] = checkpoint_wrapper(block)
    for block in called.layers:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    expected = gradients(plain)
    for other in (wrapped, called):
        found = gradients(other)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
        other.after_step()
    assert wrapped.weights == plain.weights
    assert [type(block).__name__ for block in wrapped.blocks()] == [type(block).__name__ for block in plain.blocks()]


def test_wrapped_blocks_start_with_the_same_values() -> None:
    plain, wrapped = model("baseline"), model("baseline", seed=9)
    for index, block in enumerate(wrapped.layers):
        wrapped.layers[index] = checkpoint_wrapper(block)
    wrapped.initialize(0)
    assert torch.equal(wrapped(TOKENS), plain(TOKENS))


def test_blocks_are_the_outermost_layers_in_order(tmp_path: Path) -> None:
    path = tmp_path / "nested.yaml"
    path.write_text(
        "model: nested\ndims: {d_model: 8}\ninputs: {x: [batch, seq, d_model]}\n"
        "nodes:\n  outer:\n    nodes:\n      layers: {op: stack, in: x, of: two, repeat: 11}\noutputs: {x: outer}\n"
        "blocks:\n  two:\n    block: two\n    dims: {d_model: 8}\n    inputs: {x: [batch, seq, d_model]}\n"
        "    nodes:\n      fc: {op: linear, in: x, out: d_model}\n      pair: {op: stack, of: one, repeat: 2}\n"
        "    outputs: {x: pair}\n    blocks:\n"
        "      one:\n        block: one\n        dims: {d_model: 8}\n        inputs: {x: [batch, seq, d_model]}\n"
        "        nodes: {fc: {op: linear, in: x, out: d_model, init: {normal: layer + 1}}}\n        outputs: {x: fc}\n"
    )
    made = bg.compile(path)
    assert made.blocks() == list(made.outer.layers)
    assert made.outer.layers[10].blocks() == list(made.outer.layers[10].pair)
    assert list(made.weights)[:3] == [
        "outer.layers.0.fc.weight", "outer.layers.0.pair.0.fc.weight", "outer.layers.0.pair.1.fc.weight",
    ]  # fmt: skip
    assert len(made.weights) == 33 == len(dict(made.named_parameters()))
    assert made.weights["outer.layers.3.pair.1.fc.weight"].number == 2.0
    assert made(torch.zeros(1, 2, 8)).shape == (1, 2, 8)


def test_the_compute_dtype_reaches_every_graph_and_no_parameter() -> None:
    made = model("qk_norm")
    made.compute_dtype = torch.bfloat16
    assert made(TOKENS).dtype == torch.bfloat16
    assert {value.dtype for value in made.parameters()} == {torch.float32}
    assert made.layers[1].compute_dtype == torch.bfloat16
    made.compute_dtype = None
    assert made(TOKENS).dtype == torch.float32


def test_equal_texts_share_one_class() -> None:
    assert type(model("baseline")) is type(model("baseline", seed=5))
    assert type(model("baseline").layers[0]) is type(model("baseline").layers[1])
    assert type(model("baseline")) is not type(model("qk_norm"))


def test_a_model_prints_as_the_tree_of_its_spec() -> None:
    text = repr(model("sigma_reparam"))
    assert "(0-1): 2 x SigmaReparam(" in text
    assert "(qkv): Parameters(gamma [1], weight [96, 32], u [96], v [32])" in text

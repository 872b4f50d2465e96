"""The generated text: what it reads like, that it stands alone, and what torch.compile makes of it."""

import math
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oracle import METHODS

import blockgraph as bg
from blockgraph.commands.common import own_ops
from blockgraph.constants import Constants
from blockgraph.dims import RUNTIME, Dims, Size
from blockgraph.errors import SpecError
from blockgraph.loops import listed, loops
from blockgraph.lower import lower

FOLDER = Path(__file__).parent
SPECS = FOLDER / "specs"
SMALL = {"d_model": 64, "n_heads": 4}
GOLDEN: dict[str, tuple[Any, dict[str, int]]] = {
    "baseline": ("baseline", SMALL),
    "qk_norm_cap": ("qk_norm_cap", SMALL),
    "streams": (SPECS / "streams.yaml", {}),
}
OWN = ["cross", "depth", "parallel", "shared", "streams", "tied", "value_residual", "weight_ports"]


def named(spec: str) -> Path | str:
    return spec if spec in METHODS else SPECS / f"{spec}.yaml"


def plain(text: str) -> str:
    """The text without the version that wrote it."""
    return re.sub(r"by blockgraph [\d.]+ from", "by blockgraph from", text)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_text_is_the_one_people_have_read(name: str) -> None:
    # After a change on purpose: BLOCKGRAPH_GOLDEN=write pytest tests/test_lower.py
    spec, dims = GOLDEN[name]
    path, text = FOLDER / "golden" / f"{name}.py", plain(lower(bg.load(spec, **dims)))
    if os.environ.get("BLOCKGRAPH_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("spec", [*METHODS, *OWN])
def test_the_text_is_formatted_and_has_no_idle_import(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(lower(bg.load(named(spec))))
    select = ["--select", "E,F,I,B,UP,RUF,SIM", "--ignore", "RUF002,RUF003", "--no-cache"]
    shared = ["--isolated", "--line-length", "120", "--target-version", "py311", str(path)]
    for command in (["format", "--diff", "--no-cache"], ["check", *select]):
        found = subprocess.run([sys.executable, "-m", "ruff", *command, *shared], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr


def test_the_same_spec_gives_the_same_text_wherever_it_stands(tmp_path: Path) -> None:
    text = (SPECS / "parallel.yaml").read_text()
    moved = tmp_path / "other_name.yaml"
    moved.write_text("# one line more\n" + text)
    here, there = lower(bg.load(SPECS / "parallel.yaml")), lower(bg.load(moved))
    assert here == lower(bg.load(SPECS / "parallel.yaml"))
    assert here != there
    places = re.compile(r"# (parallel|other_name)\.yaml:\d+")
    assert places.sub("#", here) == places.sub("#", there)


def test_a_long_title_cannot_leave_its_docstring(tmp_path: Path) -> None:
    title = 'a """ b \\\\ {0} ' + "word " * 60
    text = (SPECS / "tied.yaml").read_text().replace("model: tied", f"model: tied\ntitle: '{title}'")
    path = tmp_path / "tied.yaml"
    path.write_text(text)
    source = lower(bg.load(path))
    assert max(map(len, source.splitlines())) <= 120
    assert bg.compile(path)(torch.zeros(1, 2, dtype=torch.int64)).shape == (1, 2, 61)


ALONE = """
import importlib.util, sys
sys.modules["blockgraph"] = None
import torch
for name, inputs in torch.load(sys.argv[1]).items():
    spec = importlib.util.spec_from_file_location("alone", f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["alone"] = module
    spec.loader.exec_module(module)
    made = module.build(5)
    given = made(*inputs)
    given = given if isinstance(given, tuple) else (given,)
    sum(each.square().sum() for each in given).backward()
    made.after_step()
    values = {"state": dict(made.state_dict()), "outputs": given}
    values["gradients"] = {name: value.grad for name, value in made.named_parameters()}
    torch.save(values, f"{name}.pt")
"""


def test_the_text_needs_torch_alone_and_gives_the_same_numbers(tmp_path: Path) -> None:
    inputs = {}
    ops = own_ops([str(SPECS / "my_ops.py")])
    graphs = {spec: bg.load(named(spec), ops=ops, **(SMALL if spec in METHODS else {})) for spec in (*METHODS, *OWN)}
    graphs["own_ops"] = bg.load(SPECS / "own_ops.yaml", ops=ops)
    for name, graph in graphs.items():
        (tmp_path / f"{name}.py").write_text(lower(graph))
        sizes = [[size.at(batch=2, seq=6, src=9) for size in kind.sizes] for kind in graph.inputs.values()]
        draw = torch.Generator().manual_seed(0)
        inputs[name] = [
            torch.randint(61, size, generator=draw) if len(size) == 2 else torch.randn(size, generator=draw)
            for size in sizes
        ]
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "inputs.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, graph in graphs.items():
        found, module = torch.load(tmp_path / f"{name}.pt"), bg.compile(graph, seed=5)
        given = module(*inputs[name])
        given = given if isinstance(given, tuple) else (given,)
        sum(each.square().sum() for each in given).backward()
        module.after_step()
        assert all(torch.equal(a, b) for a, b in zip(found["outputs"], given, strict=True)), name
        assert found["state"].keys() == module.state_dict().keys()
        assert all(torch.equal(found["state"][key], value) for key, value in module.state_dict().items()), name
        assert all(torch.equal(found["gradients"][key], value.grad) for key, value in module.named_parameters()), name


def test_a_traceback_names_the_node_and_the_line_of_the_spec() -> None:
    block = bg.compile("sigma_reparam", **SMALL)
    block.attn.proj.v = torch.zeros(3)
    try:
        block(torch.zeros(1, 2, 64))
    except RuntimeError:
        told = traceback.format_exc()
    place = bg.load("sigma_reparam").nodes["attn.proj"].place
    assert f"attn_proj_weight = sigma_reparam(  # sigma_reparam.yaml:{place.line}" in told


@pytest.mark.parametrize("name", ["linear", "torch_2", "F", "seq_2", "layers", "print", "x", "Tensor", "x_2", "full"])
def test_any_allowed_name_can_be_a_nodes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(
        f"block: tensor\ndims: {{d_model: 8}}\ninputs: {{y: [batch, seq, d_model]}}\nnodes:\n"
        f"  {name}: {{op: linear, out: d_model}}\n  {name}s: {{op: scale, by: 'max(1, log(seq)) / 2'}}\n"
        f"  group:\n    nodes:\n      {name}: {{op: layer_norm, in: {name}s}}\noutputs: {{x: group}}\n"
    )
    module = bg.compile(path)
    assert module(torch.ones(1, 2, 8)).shape == (1, 2, 8)
    assert set(module.state_dict()) == {f"{name}.weight", f"group.{name}.weight"}


@pytest.mark.parametrize(
    "text",
    [
        "1 / (layer + 1)", "seq / 3", "-12 / seq", "max(min(seq, 2 + layer), 3, sqrt(layer * seq))", "7 % 4",
        "(-1 - layer) ** 2 / sqrt(seq + layer)", "min(seq, layer, 4) + max(layer, seq)", "log(seq + 2 ** layer)",
        "max(seq, 3) - (seq // 2 - (layer - 1)) % 5", "-(seq + layer)", "min(layer + 1, sqrt(seq), layer * seq)",
        "-layer ** 2 + seq",
    ],
)  # fmt: skip
def test_numbers_of_layer_and_length_are_those_of_the_spec(text: str) -> None:
    number = Dims({name: Size.symbol(name) for name in RUNTIME}).number(text)
    constants = Constants()
    source = constants.text(number, "here", "by")
    for layer in range(4):
        holder = SimpleNamespace(constants=SimpleNamespace(here=SimpleNamespace()))
        for path, each in constants.by_owner.get("here", {}).items():
            setattr(
                holder.constants.here,
                path.removeprefix("here."),
                torch.tensor(float(eval(each, {"math": math, "layer": layer}))),
            )
        for seq in (1, 5, 16):
            found = eval(source, {"math": math, "torch": torch, "self": holder, "seq": seq})
            assert float(found) == pytest.approx(number.at(layer=layer, seq=seq), rel=1e-6)


def test_there_is_one_class_for_each_distinct_block(tmp_path: Path) -> None:
    path = tmp_path / "pattern.yaml"
    text = (FOLDER.parent / "specs" / "models" / "gpt.yaml").read_text()
    path.write_text(text.replace("of: block, repeat", "of: [block, baseline, qk_norm], repeat"))
    source = lower(bg.load(path, n_layers=12, d_model=32, n_heads=4, vocab=61))
    assert re.findall(r"^class (\w+)\(GraphModule\)", source, re.MULTILINE) == ["Baseline", "QkNorm", "Gpt"]
    assert "enumerate([Baseline, Baseline, QkNorm] * 4)" in source


def test_blocks_of_one_name_that_take_their_values_in_another_order_have_two_classes(tmp_path: Path) -> None:
    x, y = ("x: [batch, seq, 4]", "y: [batch, seq, 4]")
    text = "block: twin\ninputs: {%s, %s}\nnodes:\n  less: {op: scale, in: x, by: 0.5}\n  z: {op: add, in: [less, y]}\n"
    for folder, inputs in (("one", (x, y)), ("two", (y, x))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twin.yaml").write_text(text % inputs + "outputs: {x: z}\n")
    (tmp_path / "both.yaml").write_text(
        "block: both\ninputs: {x: [batch, seq, 4], y: [batch, seq, 4]}\nnodes:\n"
        "  s: {op: stack, in: {x: x, y: y}, of: [one/twin.yaml, two/twin.yaml], repeat: 2}\noutputs: {x: s}\n"
    )
    first, second = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(bg.compile(tmp_path / "both.yaml")(first, second), 0.25 * first + 1.5 * second)


def test_layers_that_repeat_are_one_loop() -> None:
    assert loops("self.layers", [("x", "x")] * 3, "a.yaml:1") == [
        "for layer in self.layers:  # a.yaml:1", "    x = layer(x)",
    ]  # fmt: skip
    assert loops("self.layers", [("x, v", "x"), ("x", "x, v"), ("x", "x, v")], "a.yaml:1") == [
        "x, v = self.layers[0](x)  # a.yaml:1", "for layer in self.layers[1:3]:  # a.yaml:1", "    x = layer(x, v)",
    ]  # fmt: skip
    assert loops("self.layers", [("x", "y"), ("y", "x")] * 2, "a.yaml:1") == [
        "for layer in range(0, 4, 2):  # a.yaml:1",
        "    x = self.layers[layer](y)",
        "    y = self.layers[layer + 1](x)",
    ]
    assert listed(["A", "B", "A", "B", "C", "C"]) == "[A, B] * 2 + [C] * 2"
    assert listed(["A", "A", "B"] * 8) == "[A, A, B] * 8"


def test_own_ops_are_checked_compiled_and_carried() -> None:
    ops = own_ops([str(SPECS / "my_ops.py")])
    graph = bg.load(SPECS / "own_ops.yaml", ops=ops)
    text = lower(graph)
    assert "import blockgraph" not in text
    assert "STEEPEST = 0.5" in text
    assert text.index("def slopes") < text.index("def alibi") < text.index("class OwnOps")
    module = bg.compile(graph)
    with torch.no_grad():
        module.temp.weight.fill_(3.0)
        module.qkv.weight.mul_(10.0)
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    q, k, v = ((x @ part.T).unflatten(-1, (4, 8)).transpose(1, 2) for part in module.qkv.weight.chunk(3))
    distance = torch.arange(6)[:, None] - torch.arange(6)
    slope = torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None]
    logits = 3.0 * (q @ k.mT / 8**0.5 - 0.5 * slope * distance)
    weights = torch.softmax(logits.masked_fill(distance < 0, -torch.inf), -1)
    torch.testing.assert_close(module(x), (weights @ v).transpose(1, 2).flatten(2))


def test_a_file_of_own_ops_may_be_called_like_any_module(tmp_path: Path) -> None:
    path = tmp_path / "torch.py"
    path.write_text((SPECS / "my_ops.py").read_text())
    graph = bg.load(SPECS / "own_ops.yaml", ops=own_ops([str(path)]))
    assert sys.modules["torch"] is torch
    assert bg.compile(graph)(torch.ones(1, 6, 32)).shape == (1, 6, 32)


def test_an_own_function_cannot_take_the_name_of_one_that_modules_carry(tmp_path: Path) -> None:
    path = tmp_path / "clashing.py"
    path.write_text((SPECS / "my_ops.py").read_text().replace("alibi(", "linear(").replace("def alibi", "def linear"))
    graph = bg.load(SPECS / "own_ops.yaml", ops=own_ops([str(path)]))
    with pytest.raises(SpecError, match=r"clashing.py:\d+:1: error: 'linear' is also the name .*; choose another name"):
        lower(graph)

"""What names mean: order, groups, ports, weights, slots, and a whole text that says it all again."""

from pathlib import Path

import pytest
import yaml

from blockgraph.canonical import digest, text
from blockgraph.errors import SpecError
from blockgraph.graph import Ref
from blockgraph.library import shipped
from blockgraph.load import load

SPECS = Path(__file__).parent / "specs"


def block(nodes, out="{y: last}", extra=""):
    dims = "{d: 8, h: 2, n: 4}"
    return f"block: b\ndims: {dims}\ninputs: {{x: [batch, seq, d]}}\n{extra}nodes:\n{nodes}outputs: {out}\n"


@pytest.fixture
def graph_of(tmp_path):
    def graph(spec, name="spec", **settings):
        path = tmp_path / f"{name}.yaml"
        path.write_text(spec)
        return load(path, **settings)

    return graph


def reads(graph, path):
    return {port: str(ref) for port, ref in graph.nodes[path].inputs.items()}


def test_without_in_a_node_reads_the_one_above_it_and_the_first_the_input(graph_of):
    graph = graph_of(block("  a: {op: relu}\n  g: {nodes: {b: {op: relu}, c: {op: relu}}}\n  last: {op: relu}\n"))
    assert [reads(graph, path) for path in ("a", "g.b", "g.c", "last")] == [
        {"x": "x"},
        {"x": "a"},
        {"x": "g.b"},
        {"x": "g.c"},
    ]


def test_names_of_the_group_come_before_those_around_it(graph_of):
    inner = "{nodes: {a: {op: gelu, in: x}, b: {op: add, in: [a, x]}, deep: {nodes: {c: {op: add, in: [a, b]}}}}}"
    graph = graph_of(block(f"  a: {{op: relu}}\n  g: {inner}\n  last: {{op: add, in: [a, g]}}\n"))
    assert reads(graph, "g.b") == {"0": "g.a", "1": "x"}
    assert reads(graph, "g.deep.c") == {"0": "g.a", "1": "g.b"}
    assert reads(graph, "last") == {"0": "a", "1": "g.deep.c"}


def test_a_group_stands_for_its_last_node_and_a_path_for_any(graph_of):
    nodes = "  g: {nodes: {a: {op: relu}, deep: {nodes: {b: {op: relu}, c: {op: gelu}}}}}\n"
    graph = graph_of(block(nodes + "  last: {op: add, in: [g, g.a, g.deep, g.deep.b]}\n"))
    assert list(reads(graph, "last").values()) == ["g.deep.c", "g.a", "g.deep.c", "g.deep.b"]
    assert graph.groups["g"].value == Ref("node", "g.deep.c", "out")


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_order_is_free_where_every_in_is_written(path, graph_of):
    tree = yaml.safe_load(path.read_text())
    graph = load(path)

    def written(nodes, prefix=""):
        for name, node in nodes.items():
            if "nodes" in node:
                written(node["nodes"], f"{prefix}{name}.")
            elif "in" not in node and graph.nodes[prefix + name].data():
                (ref,) = graph.nodes[prefix + name].data().values()
                node["in"] = str(ref)

    def backwards(nodes):
        return {name: turned(node) for name, node in reversed(nodes.items())}

    def turned(node):
        return {**node, "nodes": backwards(node["nodes"])} if "nodes" in node else node

    written(tree["nodes"])
    tree["outputs"] = {name: str(ref) for name, ref in graph.outputs.items()}
    nodes = tree["nodes"]
    for node in nodes.values():  # a group's value is its last node's, so whoever reads a group names that node
        if "in" in node and "nodes" not in node:
            given = node["in"]
            listed = given if isinstance(given, list) else [*given.values()] if isinstance(given, dict) else [given]
            named = [str(graph.groups[word].value) if word in graph.groups else word for word in listed]
            node["in"] = dict(zip(given, named, strict=True)) if isinstance(given, dict) else named
    tree["nodes"] = backwards(nodes)
    assert digest(graph_of(yaml.safe_dump(tree, sort_keys=False), path.stem)) == digest(graph)


def test_ports_may_be_given_by_name_in_any_order(graph_of):
    nodes = (
        "  q: {op: linear, out: d}\n  bmm: {op: matmul, in: {b: q, a: x}, transpose: b}\n  mask: {op: causal_mask}\n"
    )
    graph = graph_of(block(nodes + "  p: {op: softmax}\n  last: {op: matmul, in: {b: x, a: p}}\n"))
    assert list(graph.nodes["bmm"].inputs.items()) == [("a", Ref("input", "x")), ("b", Ref("node", "q", "out"))]


def test_a_node_on_a_port_reads_the_weight_of_its_owner_and_lives_under_its_path(graph_of):
    graph = graph_of(block("  last: {op: linear, out: d, weight: {op: sigma_reparam}}\n"))
    assert list(graph.nodes) == ["last@weight", "last"]
    assert graph.nodes["last@weight"].inputs == {"weight": Ref("param", "last", "weight")}
    assert [param.name for param in graph.nodes["last"].params] == ["weight"]
    assert graph.nodes["last@weight"].home == "last"


def test_ports_of_nodes_on_ports_may_be_written_too(graph_of):
    one = "  one: {op: parameter, shape: [1]}\n"
    graph = graph_of(block(one + "  last: {op: linear, in: x, out: d, weight: {op: sigma_reparam, gamma: one}}\n"))
    assert reads(graph, "last@weight") == {"weight": "last.weight", "gamma": "one"}
    nested = "  last: {op: linear, out: d, weight: {op: sigma_reparam, gamma: {op: scale, by: 2}}}\n"
    graph = graph_of(block(nested))
    assert list(graph.nodes) == ["last@weight@gamma", "last@weight", "last"]
    assert reads(graph, "last@weight@gamma") == {"x": "last@weight.gamma"}
    assert [param.name for param in graph.nodes["last@weight"].params] == ["gamma"]


def test_a_weight_may_be_another_nodes_own(graph_of):
    graph = graph_of(block("  a: {op: linear, out: d}\n  last: {op: linear, out: d, weight: a.weight}\n"))
    assert graph.nodes["last"].inputs["weight"] == Ref("param", "a", "weight")
    assert graph.nodes["last"].params == ()


def test_nodes_and_problems_carry_the_place_where_they_are_written(graph_of):
    graph = graph_of(block("  a: {op: relu}\n  last: {op: linear, out: d, weight: {op: sigma_reparam}}\n"))
    assert [(node.place.line, node.place.column) for node in graph.nodes.values()] == [(5, 3), (6, 30), (6, 3)]


@pytest.mark.parametrize("path", [*shipped().values(), *sorted(SPECS.glob("*.yaml"))], ids=lambda path: path.stem)
def test_the_whole_text_loads_to_the_same_graph_from_anywhere(path, graph_of):
    if "op: twice" in path.read_text() or path.stem == "own_ops":
        pytest.skip("needs ops of its own")
    graph = load(path)
    assert digest(graph_of(text(graph), "copy")) == digest(graph)


def test_the_whole_text_holds_slots_and_paths_that_were_set(tmp_path, graph_of):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "my.yaml").write_text(block("  last: {op: relu}\n", out="{x: last}"))
    (tmp_path / "two" / "my.yaml").write_text(block("  last: {op: gelu}\n", out="{x: last}"))
    nodes = "  s: {op: stack, in: x, of: [first, second, ./one/my.yaml], repeat: n}\n"
    spec = block(nodes, out="{y: s}", extra="slots: {first: baseline, second: baseline}\n")
    graph = graph_of(spec, first="one/my.yaml", second="two/my.yaml", base=tmp_path)
    assert [block.nodes["last"].op.name for block in graph.nodes["s"].blocks] == ["relu", "gelu", "relu"]
    assert graph.source["slots"] == {"first": "my", "second": "my_2"}
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copy.yaml"
    copy.write_text(text(graph))
    assert digest(load(copy)) == digest(graph)


@pytest.mark.parametrize("blocks", [("a/my.yaml", "b/my.yaml"), ("a/my.yaml", "my"), ("my", "b/my.yaml")])
def test_a_block_in_a_slot_is_told_from_one_of_its_name_that_a_stack_asks_for(blocks, tmp_path, graph_of):
    for folder, op in (("a", "relu"), ("b", "gelu"), (".", "silu")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "my.yaml").write_text(block(f"  last: {{op: {op}}}\n", out="{x: last}"))
    nodes = "  s: {op: stack, in: x, of: [first, my, second], repeat: 3}\n"
    spec = block(nodes, out="{y: s}", extra="slots: {first: baseline, second: baseline}\n")
    graph = graph_of(spec, first=blocks[0], second=blocks[1], base=tmp_path)
    assert graph.nodes["s"].blocks[graph.nodes["s"].plan[1]].nodes["last"].op.name == "silu"
    assert digest(graph_of(text(graph), "copy")) == digest(graph)


def test_dims_of_the_spec_around_a_block_take_the_place_of_its_own(graph_of):
    spec = block("  last: {op: stack, in: x, of: baseline, repeat: n}\n", out="{x: last}").replace(
        "d: 8", "d: 8, d_model: d"
    )
    graph = graph_of(spec.replace("h: 2", "h: 2, n_heads: h"))
    (inner,) = graph.nodes["last"].blocks
    assert {name: inner.dims.sizes[name].known for name in ("d_model", "n_heads", "d_head", "d_ff", "n_layers")} == {
        "d_model": 8, "n_heads": 2, "d_head": 4, "d_ff": 32, "n_layers": 4,
    }  # fmt: skip


def test_a_block_beside_the_spec_comes_before_a_shipped_one(tmp_path, graph_of):
    (tmp_path / "baseline.yaml").write_text(block("  last: {op: relu}\n", out="{x: last}"))
    graph = graph_of(block("  last: {op: stack, in: x, of: baseline, repeat: 2}\n", out="{x: last}"))
    assert list(graph.nodes["last"].blocks[0].nodes) == ["last"]


def test_a_stack_can_be_read_before_it_is_written(graph_of):
    nodes = "  last: {op: relu, in: s.x}\n  s: {op: stack, in: x, of: inner, repeat: 2}\n"
    inner = "{block: inner, dims: {d: 8}, inputs: {x: [batch, seq, d]}, nodes: {a: {op: gelu}}, outputs: {x: a}}"
    graph = graph_of(block(nodes, extra=f"blocks: {{inner: {inner}}}\n"))
    assert list(graph.nodes) == ["s", "last"]


def test_a_mistake_does_not_hide_others_and_nothing_follows_from_it(graph_of):
    nodes = (
        "  one: {op: liner, out: d}\n  two: {op: linear, in: one, out: dd}\n  three: {op: add, in: [one, two]}\n"
        "  four: {op: linear, in: x, out: 2 * d}\n  five: {op: add, in: [x, four]}\n  six: {op: relu, in: x}\n"
        "  last: {op: add, in: [three, five]}\n"
    )
    with pytest.raises(SpecError) as caught:
        graph_of(block(nodes))
    assert [(problem.place.line, problem.place.text[2:5].strip(":")) for problem in caught.value.problems] == [
        (5, "one"), (6, "two"), (9, "fiv"), (10, "six"),
    ]  # fmt: skip


def test_a_dim_at_fault_is_at_fault_in_the_blocks_too_and_told_once(graph_of):
    spec = block("  last: {op: stack, in: x, of: baseline, repeat: n}\n", out="{x: last}")
    with pytest.raises(SpecError) as caught:
        graph_of(spec.replace("d: 8", "d_model: d, d: 8, n_heads: 0"))
    assert [problem.message for problem in caught.value.problems] == [
        "dim d_model: the dim 'd' is given further down; put it before this one",
        "dim n_heads: 0 is not a positive whole number",
    ]

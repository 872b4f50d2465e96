"""Shapes, owners of parameters, layers that fit and train, and what an output may depend on."""

from pathlib import Path

import pytest

from blockgraph.check import check
from blockgraph.errors import Problems, SpecError
from blockgraph.library import shipped
from blockgraph.load import load
from blockgraph.types import Flow, meet

SPECS = Path(__file__).parent / "specs"


@pytest.fixture
def graph_of(tmp_path):
    def graph(spec, **settings):
        path = tmp_path / "spec.yaml"
        path.write_text(spec)
        return load(path, **settings)

    return graph


@pytest.fixture
def told(graph_of):
    def messages(spec, **settings):
        try:
            graph_of(spec, **settings)
        except SpecError as error:
            return [problem.message for problem in error.problems]
        return []

    return messages


def block(nodes, out="{y: last}", dims="{d: 8, h: 2}", extra=""):
    return f"block: b\n{extra}dims: {dims}\ninputs: {{x: [batch, seq, d]}}\nnodes:\n{nodes}outputs: {out}\n"


def model(layers, blocks, out="{y: layers}", embed="{op: embedding, in: t, rows: 16, width: d}", dims="{d: 8}"):
    return (
        f"model: m\ndims: {dims}\ninputs: {{t: [batch, seq]}}\nnodes:\n  embed: {embed}\n  layers: {layers}\n"
        f"outputs: {out}\nblocks:\n{blocks}"
    )


def inner(name, nodes, inputs="{x: [batch, seq, d]}", outputs="{x: a}"):
    return f"  {name}: {{block: {name}, dims: {{d: 8}}, inputs: {inputs}, nodes: {nodes}, outputs: {outputs}}}\n"


XV = "{x: [batch, seq, d], v: [batch, seq, d]}"


@pytest.mark.parametrize("path", [*shipped().values(), SPECS / "streams.yaml"], ids=lambda path: path.stem)
def test_checking_again_changes_nothing(path):
    graph, problems = load(path), Problems()
    assert check(graph, problems) == graph
    assert problems.found == []


def test_types_are_written_in_symbols_and_compared_by_value():
    graph = load("baseline", d_model=64, n_heads=4)
    shown = {path: str(kind) for path, node in graph.nodes.items() for kind in node.types.values()}
    assert shown["attn.heads"] == "[batch, n_heads, seq, d_model/n_heads]"
    assert shown["attn.bmm1"] == "[batch, n_heads, seq, seq]"
    assert shown["ff.fc1"] == "[batch, seq, 4*d_model]"
    assert graph.nodes["ff.fc1"].types["out"].last.known == 256


def test_sizes_meet_when_their_values_do_until_somebody_sets_others(told):
    spec = block("  a: {op: linear, out: wide}\n  last: {op: add, in: [a, x]}\n", dims="{d: 8, wide: 8}")
    assert told(spec) == []
    (message,) = told(spec, wide=16)
    assert message == "last (add): sizes differ: [batch, seq, wide] and [batch, seq, d] (d = 8, wide = 16)"


def test_flows_meet_as_their_entries_do():
    assert meet(Flow.MASKED, Flow.MASKED) is Flow.MASKED
    assert meet(Flow.WEIGHTS, Flow.MASKED) is Flow.PAIRS
    assert meet(Flow.PAST, Flow.PAIRS) is Flow.PAIRS
    assert meet(Flow.PAST, Flow.WEIGHTS) is Flow.ALL
    assert all(meet(Flow.ALL, flow) is Flow.ALL for flow in Flow)
    assert all(meet(one, two) is meet(two, one) for one in Flow for two in Flow)


def test_tokens_without_an_axis_of_their_own_are_not_causal(told):
    fold = block("  last: {op: relu}\n").replace("[batch, seq, d]", "[batch, h, 2 * seq, d]")
    assert told(fold) == ["the input 'x' has no axis for tokens alone, so nothing is known of what they depend on"]
    assert told(fold.replace("block: b\n", "block: b\ncausal: false\n")) == []


def test_a_statistic_over_what_tokens_stand_for_heads_of_is_not_causal(told):
    spec = block("  last: {op: rms_norm, width: full, gain: none}\n").replace("[batch, seq, d]", "[batch, seq, h, d]")
    assert told(spec) == ["last (rms_norm): here a token comes to depend on later ones, and so does the output 'y'"]
    assert told(spec.replace(", width: full", "")) == []


@pytest.mark.parametrize("shape", ["[seq, d]", "[batch]"])
def test_a_parameter_has_a_shape_that_is_known(told, shape):
    nodes = f"  w: {{op: parameter, shape: {shape}}}\n  last: {{op: relu, in: x}}\n"
    (message,) = told(block(nodes, out="{y: last, w: w}"))
    assert "is known only when the model runs" in message


def test_a_linear_over_tokens_is_told_by_its_weight(told):
    (message,) = told(block("  s: {op: matmul, in: [x, x], transpose: b}\n  last: {op: linear, out: d}\n"))
    assert message == "last (linear): its weight is [d, seq], and the size of a parameter cannot depend on seq (d = 8)"


def test_layers_may_read_what_an_earlier_layer_gave(told):
    first = inner("first", "{v: {op: linear, in: x, out: d}, a: {op: linear, in: x, out: d}}", outputs="{x: a, v: v}")
    later = inner("later", "{a: {op: add, in: [x, v]}}", inputs=XV)
    assert told(model("{op: stack, of: later, repeat: 3, at: {0: first}}", first + later)) == []
    late = model("{op: stack, in: [embed], of: later, repeat: 3, at: {1: first}}", first + later)
    assert told(late) == ["layers (stack): layer 0 (later) reads 'v', which is not carried; what is carried: x"]


def test_a_layer_whose_value_nobody_reads_trains_nothing(told):
    first = inner("first", "{v: {op: linear, in: x, out: d}, a: {op: linear, in: x, out: d}}", outputs="{x: a, v: v}")
    later = inner("later", "{a: {op: add, in: [x, v]}}", inputs=XV)
    (message,) = told(model("{op: stack, of: [first, later], repeat: 3}", first + later))
    assert message == "v (linear): no output needs it in layer 2 of layers, so its parameters would never train there"
    both = model("{op: stack, of: [first, later], repeat: 3}", first + later, out="{y: layers.x, v: layers.v}")
    assert told(both) == []


def test_a_layer_that_is_overwritten_trains_nothing(told):
    plain = inner("plain", "{a: {op: linear, in: x, out: d}}")
    fresh = inner("fresh", "{w: {op: linear, in: v, out: d}, a: {op: relu, in: w}}", inputs="{v: [batch, seq, d]}")
    (message,) = told(model("{op: stack, in: {x: embed, v: embed}, of: [plain, fresh], repeat: 2}", plain + fresh))
    assert message == "a (linear): no output needs it in layer 0 of layers, so its parameters would never train there"


def test_what_is_carried_is_read(told):
    plain = inner("plain", "{a: {op: linear, in: x, out: d}}")
    late = inner("late", "{a: {op: add, in: [x, v]}}", inputs=XV)
    fresh = inner("fresh", "{v: {op: gelu, in: x}, a: {op: relu, in: x}}", outputs="{x: a, v: v}")
    spec = model("{op: stack, in: {x: embed, v: embed}, of: [fresh, late], repeat: 2}", plain + fresh + late)
    assert told(spec) == ["layers (stack): carries 'v', which no layer reads"]


def test_layers_may_change_the_width_where_the_next_one_reads_it(told):
    wide = inner("wide", "{a: {op: linear, out: 2 * d}}")
    back = inner("back", "{a: {op: linear, out: d}}", inputs="{x: [batch, seq, 2 * d]}")
    assert told(model("{op: stack, of: [wide, back], repeat: 4}", wide + back)) == []
    assert told(model("{op: stack, of: [wide, wide, back], repeat: 4}", wide + back)) == [
        "layers (stack): layer 1 (wide) reads 'x' as [batch, seq, d], found [batch, seq, 2*d] (d = 8)"
    ]


def test_a_block_of_any_width_takes_what_arrives(graph_of):
    any_width = inner("any", "{a: {op: relu}}", inputs="{x: [batch, seq, w]}").replace("d: 8", "w: null")
    graph = graph_of(model("{op: stack, of: any, repeat: 2}", any_width))
    assert str(graph.nodes["layers"].types["x"]) == "[batch, seq, d]"


def test_token_ids_do_not_enter_where_real_numbers_are_read(told):
    plain = inner("plain", "{a: {op: linear, in: x, out: d}}")
    (message, *_) = told(model("{op: stack, in: t, of: plain, repeat: 2}", plain, out="{y: layers, z: embed}"))
    assert message.startswith(
        "layers (stack): layer 0 (plain) reads 'x' as [batch, seq, d], found [batch, seq] of token"
    )


def test_there_are_as_many_experts_as_the_router_tells_apart(told):
    nodes = (
        "  r: {op: linear, in: x, out: 6}\n  e: {op: route, top: 2}\n"
        "  up: {op: expert_linear, in: [x, e.chosen], experts: N, out: d}\n"
        "  last: {op: weighted_sum, in: [up, e.weights]}\n"
    )
    assert told(block(nodes.replace("N", "6"))) == []
    for count in ("4", "8"):
        assert told(block(nodes.replace("N", count))) == [
            f"up (expert_linear): has {count} experts, and the router tells 6 apart"
        ]
    other = "  o: {op: linear, in: x, out: h}\n  b: {op: balance_loss, in: [o, e.chosen], factor: 1}\n"
    (message,) = told(block(nodes.replace("N", "6") + other))
    assert message == "b (balance_loss): reads [batch, seq, h], and the choice is among 6 experts (h = 2)"


def test_what_layers_carry_apart_is_a_value_of_theirs_and_something_is_left(told):
    plain = inner("plain", "{a: {op: linear, in: x, out: d}}")
    spec = model("{op: stack, of: plain, repeat: 2, index: {N: layer}}", plain)
    assert told(spec.replace("N", "xx")) == ["layers (stack): no block gives a value 'xx'"]
    assert told(spec.replace("N", "x")) == ["layers (stack): every value is carried apart, so it gives none"]


def test_layers_share_what_is_the_same_in_each(told):
    one = inner("one", "{g: {nodes: {a: {op: linear, in: x, out: d}}}}", outputs="{x: g}")
    two = inner("two", "{g: {nodes: {a: {op: linear, in: x, out: d, bias: true}}}}", outputs="{x: g}")
    three = inner("three", "{g: {op: relu, in: x}}", outputs="{x: g}")
    stack = "{{op: stack, of: [{}], repeat: 4, share: [{}]}}"
    assert told(model(stack.format("one", "g"), one)) == []
    assert told(model(stack.format("one", "g.a"), one)) == []
    assert told(model(stack.format("one, two", "g"), one + two)) == [
        "layers (stack): 'g' has other parameters in other blocks, so layers cannot share it"
    ]
    assert told(model(stack.format("three", "g"), three)) == ["layers (stack): 'g' has no parameters to share"]
    assert told(model(stack.format("one, three", "g.a"), one + three)) == [
        "layers (stack): 'g.a' is no node or group of the block three"
    ]


@pytest.mark.parametrize("field", ["init: zeros", "after_step: unit_rows"])
def test_fields_of_a_weight_that_another_replaces_are_refused_beside_a_bias(told, field):
    spec = block(f"  w: {{op: parameter, shape: [d, d]}}\n  last: {{op: linear, in: x, out: d, weight: w, {field}}}\n")
    (message,) = told(spec)
    assert told(spec.replace("weight: w", "weight: w, bias: true")) == [message]
    assert message.endswith("would belong to a weight of its own, which w replaces")
    assert told(spec.replace(field, "bias: true, lr: 2")) == []


def test_two_parameters_never_have_one_name(told):
    spec = block("  last: {op: linear, out: d, weight: {op: layer_scale}}\n")
    assert told(spec) == ["last (linear): two parameters would be called last.weight, here and in last@weight"]


def test_a_leak_is_told_once_where_it_happens(told):
    leaky = inner("leaky", "{s: {op: matmul, in: [x, x], transpose: b}, p: {op: softmax}, a: {op: matmul, in: [p, x]}}")
    (message,) = told(model("{op: stack, of: leaky, repeat: 3}", leaky))
    assert message == "p (softmax): here a token comes to depend on later ones, and so does the output 'x'"
    before = "  s: {op: matmul, in: [embed, embed], transpose: b}\n  p: {op: softmax}\n"
    before += "  e: {op: matmul, in: [p, embed]}\n"
    plain = inner("plain", "{a: {op: linear, in: x, out: d}}")
    outside = model("{op: stack, in: e, of: plain, repeat: 2}", plain).replace("  layers:", before + "  layers:")
    (message,) = told(outside)
    assert message == "p (softmax): here a token comes to depend on later ones, and so does the output 'y'"
    assert told(outside.replace("model: m\n", "model: m\ncausal: false\n")) == []


def test_weights_of_attention_may_be_an_output_and_scores_may_not(told):
    nodes = "  s: {op: matmul, in: [x, x], transpose: b}\n  m: {op: causal_mask}\n  last: {op: softmax}\n"
    assert told(block(nodes)) == []
    assert told(block(nodes, out="{y: last, m: m}")) == []
    assert told(block(nodes, out="{y: last, s: s}")) == [
        "the output 's' holds scores between tokens, later ones included"
    ]


def test_a_loss_is_not_called_a_leak_beside_one_and_each_output_that_leaks_is_told(told):
    nodes = "  s: {op: matmul, in: [x, x], transpose: b}\n  p: {op: softmax}\n  last: {op: matmul, in: [p, x]}\n"
    nodes += "  r: {op: linear, in: x, out: h}\n  e: {op: route, top: 1}\n"
    nodes += "  z: {op: z_loss, in: r, factor: 1}\n  up: {op: expert_linear, in: [x, e.chosen], experts: h, out: d}\n"
    nodes += "  w: {op: weighted_sum, in: [up, e.weights]}\n"
    assert told(block(nodes, out="{y: last, s: s, w: w}")) == [
        "p (softmax): here a token comes to depend on later ones, and so does the output 'y'",
        "the output 's' holds scores between tokens, later ones included",
    ]


def test_two_leaks_are_both_told(told):
    attend = "  {0}s: {{op: matmul, in: [x, x], transpose: b}}\n  {0}p: {{op: softmax}}\n"
    attend += "  {0}: {{op: matmul, in: [{0}p, x]}}\n"
    messages = told(block(attend.format("one") + attend.format("two") + "  last: {op: add, in: [one, two]}\n"))
    assert [message.split()[0] for message in messages] == ["onep", "twop"]


@pytest.mark.parametrize("count", [0, 1, 5, 30])
def test_a_circle_is_told_by_a_shortest_way_round(told, count):
    chain = "".join(f"  n{i}: {{op: relu, in: n{i + 1}}}\n" for i in range(count))
    spec = block(chain + f"  n{count}: {{op: relu, in: n0}}\n  last: {{op: add, in: [x, n0]}}\n")
    (message,) = told(spec)
    names = message.partition("by way of ")[2].split(" -> ")
    assert names[0] == names[-1] == "n0"
    assert len(names) == min(count + 2, 9)


def test_one_circle_does_not_hide_another_fault(told):
    around = "  a: {op: relu, in: b}\n  b: {op: relu, in: a}\n"
    spec = block(around + "  w: {op: linear, in: x, out: 2 * d}\n  last: {op: add, in: [x, w, a]}\n")
    assert [message.split(":")[0] for message in told(spec)] == ["a (relu)"]
    spec = spec.replace("[x, w, a]", "[x, w]")
    assert [message.split(":")[0] for message in told(spec)] == ["a (relu)", "last (add)"]


def test_nothing_is_called_unused_while_a_name_is_lost(told):
    nodes = "  a: {op: linear, out: d}\n  b: {op: relu}\n  last: {op: add, in: [x, zz]}\n"
    assert told(block(nodes)) == ["nothing is called 'zz'"]

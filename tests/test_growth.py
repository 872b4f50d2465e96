"""What a check costs grows with the spec and no faster: calls are counted, so a busy machine changes nothing."""

import cProfile
import pstats
from contextlib import suppress

import pytest

from blockgraph.errors import SpecError
from blockgraph.load import load

SMALL, LARGE = 400, 1600
CHAIN_SMALL, CHAIN_LARGE = 2500, 10_000
MOST = 4.6  # times the calls for four times the nodes


def spec(nodes, last, dims="{d: 64}"):
    return f"block: b\ndims: {dims}\ninputs: {{x: [batch, seq, d]}}\nnodes:\n{nodes}outputs: {{y: {last}}}\n"


def lines(count, line):
    return "".join(f"  n{i}: {line.format(i=i, above=f'n{i - 1}' if i else 'x')}\n" for i in range(count))


def turned(nodes):
    return "".join(reversed(nodes.splitlines(keepends=True)))


def chain(count):
    return spec(lines(count, "{{op: relu}}"), f"n{count - 1}")


def reversed_chain(count):
    return spec(turned(lines(count, "{{op: relu, in: {above}}}")), f"n{count - 1}")


def groups(count):
    return spec(lines(count, "{{nodes: {{a: {{op: relu}}}}}}"), f"n{count - 1}")


def weight_ports(count):
    return spec(lines(count, "{{op: linear, out: d, weight: {{op: sigma_reparam}}}}"), f"n{count - 1}")


def shared_weight(count):
    shared = "  w: {op: parameter, shape: [d, d]}\n"
    return spec(shared + lines(count, "{{op: linear, out: d, weight: w, in: {above}}}"), f"n{count - 1}")


def wide_add(count):
    names = ", ".join(f"n{i}" for i in range(count))
    return spec(lines(count, "{{op: relu, in: x}}") + f"  sum: {{op: add, in: [{names}]}}\n", "sum")


def dims(count):
    named = "{d: 64, " + ", ".join(f"d{i}: 64" for i in range(count)) + "}"
    return spec(lines(count, "{{op: linear, out: d{i}, in: {above}}}"), f"n{count - 1}", named)


def layers(count):
    return spec(f"  s: {{op: stack, in: x, of: baseline, repeat: {count}}}\n", "s", "{d: 64, d_model: d, n_heads: 4}")


def circle(count):
    return reversed_chain(count).replace("in: x", f"in: n{count - 1}")


def circles(count):
    pairs = "".join(f"  a{i}: {{op: relu, in: b{i}}}\n  b{i}: {{op: relu, in: a{i}}}\n" for i in range(count // 2))
    return spec(pairs, "a0")


def dead_ends(count):
    return spec(lines(count, "{{op: relu, in: x}}"), "n0")


def dead_chain(count):
    return spec(lines(count, "{{op: relu}}"), "n0")


def unknown_ops(count):
    return spec(lines(count, "{{op: rellu}}"), "n0")


def unknown_names(count):
    return spec(lines(count, "{{op: relu, in: m{i}}}"), "n0")


def calls(text, path):
    path.write_text(text)
    profile = cProfile.Profile()
    profile.enable()
    with suppress(SpecError):
        load(path)
    profile.disable()
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize("made", [chain, reversed_chain])
def test_a_chain_of_ten_thousand_nodes_costs_four_times_one_of_a_quarter(made, tmp_path):
    path = tmp_path / "spec.yaml"
    few, many = calls(made(CHAIN_SMALL), path), calls(made(CHAIN_LARGE), path)
    assert many <= MOST * few


@pytest.mark.parametrize("made", [groups, weight_ports, shared_weight, wide_add, dims, layers])
def test_what_else_grows_costs_in_proportion(made, tmp_path):
    path = tmp_path / "spec.yaml"
    assert calls(made(LARGE), path) <= MOST * calls(made(SMALL), path)


@pytest.mark.parametrize("made", [circle, circles, dead_ends, dead_chain, unknown_ops, unknown_names])
def test_faults_of_large_graphs_cost_in_proportion(made, tmp_path):
    path = tmp_path / "spec.yaml"
    assert calls(made(LARGE), path) <= MOST * calls(made(SMALL), path)


def test_the_large_chain_is_valid(tmp_path):
    (tmp_path / "spec.yaml").write_text(reversed_chain(CHAIN_LARGE))
    graph = load(tmp_path / "spec.yaml")
    assert list(graph.nodes) == [f"n{i}" for i in range(CHAIN_LARGE)]

"""Names that are safe as attributes, module paths and Python words."""

import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from blockgraph.errors import Place, Problems, closest, near_miss
from blockgraph.kernels.base import GraphModule
from blockgraph.names import MODULE_NAMES, check_name


def fault(name, module=True):
    problems = Problems()
    fits = check_name(name, "the name", Place("f"), problems, module=module)
    assert fits == (not problems.found)
    return problems.found[0].message if problems.found else ""


def test_every_name_of_a_module_is_refused():
    public = {name for name in {*dir(nn.Module()), *dir(GraphModule())} if not name.startswith("_")}
    assert public <= MODULE_NAMES


@pytest.mark.parametrize("name", ["qkv", "bmm1", "ln_q", "x", "Q", "add_attn", "fc_1_2", "weight", "norm"])
def test_plain_words_are_names(name):
    assert fault(name) == ""


@pytest.mark.parametrize(
    "name",
    ["", " ", "1st", "_x", "a.b", "a-b", "a b", "é", "аct", "a\n", "a/b", "x" * 101, "a@b", "q​kv", "../x", "a:b"],
)
def test_what_is_no_word_is_refused(name):
    assert "is not a word of up to 100 letters" in fault(name)


@pytest.mark.parametrize("name", [*keyword.kwlist, "self", "torch", "math", "layer", "sqrt", "none", "true", "false"])
def test_words_of_python_and_of_the_language_are_refused(name):
    assert "is a word of Python or of the language" in fault(name)


@pytest.mark.parametrize("name", ["forward", "parameters", "train", "half", "type", "to", "graph", "table"])
def test_module_attributes_are_refused_for_modules_alone(name):
    assert "is a name of every torch module" in fault(name)
    assert fault(name, module=False) == ""


def test_double_underscores_are_refused():
    assert "double underscore" in fault("a__b")


@given(st.text())
def test_accepted_names_are_safe_attributes(name):
    if not fault(name):
        assert name.isidentifier()
        assert name.isascii()
        assert not keyword.iskeyword(name)
        assert not hasattr(nn.Module(), name)


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("layernorm", ["layer_norm", "rms_norm"], "layer_norm"),
        ("lm", ["ln", "qkv"], "ln"),
        ("sequence", ["batch", "seq"], "seq"),
        ("dropout", ["rope", "proj", "softmax"], ""),
        ("x", ["y", "z"], ""),
        ("", ["a"], ""),
        ("fc1", [], ""),
    ],
)
def test_near_misses_are_near(word, known, meant):
    assert closest(word, known) == meant
    assert near_miss(word, known) == (f"did you mean '{meant}'?" if meant else "")


def test_a_near_miss_among_very_many_names_is_found():
    assert closest("qvk", ["qkv", *(f"node_{i}" for i in range(50_000))]) == "qkv"

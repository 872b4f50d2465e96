"""The JSON Schemas for editors agree with the checkers of specs and of edits."""

import json
from pathlib import Path

import jsonschema
import pytest

from blockgraph.edits import jsonschema as edits
from blockgraph.edits.file import Header, Pattern, Step
from blockgraph.jsonschema import schema
from blockgraph.library import shared_places, shipped, shipped_edits
from blockgraph.ops import OPS
from blockgraph.syntax import parse, plain, read

BAD = Path(__file__).parent / "bad"
VALIDATOR = jsonschema.Draft7Validator(schema(OPS))
EDITS = jsonschema.Draft7Validator(edits.schema(OPS))
# What a schema can see.
VISIBLE = """
    unknown_op unknown_field unknown_field_value op_missing node_is_word op_is_number in_is_number title_is_list
    title_is_number header_missing header_no_kind header_both header_misspelt header_kinds group_empty group_with_in
    inputs_kinds outputs_kinds sizes_of_wrong_kind weight_not_there yaml_words
"""


@pytest.mark.parametrize("made", [schema, edits.schema])
def test_the_schema_is_one(made):
    jsonschema.Draft7Validator.check_schema(made(OPS))


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_shipped_specs_are_valid(path):
    assert [error.message for error in VALIDATOR.iter_errors(plain(read(path)))] == []


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_the_example_of_every_op_is_valid(op):
    nodes = plain(parse(op.example))
    spec = {"block": "b", "inputs": {"x": ["batch", "seq", 64]}, "nodes": nodes, "outputs": {"x": "x"}}
    assert [error.message for error in VALIDATOR.iter_errors(spec)] == []


@pytest.mark.parametrize("name", VISIBLE.split())
def test_bad_specs_are_not_valid(name):
    assert list(VALIDATOR.iter_errors(plain(read(BAD / f"{name}.yaml"))))


def test_every_key_that_an_op_reads_is_described_and_nothing_else():
    for rule in schema(OPS)["definitions"]["node"]["allOf"]:
        op = OPS[rule["if"]["properties"]["op"]["const"]]
        keys = rule["then"]["properties"]
        assert set(keys) == {"op", "in", "title", *op.model_fields, *op.weights}
        assert [key for key, value in keys.items() if "description" not in value] == []
        assert [key for key, value in keys.items() if not value.keys() - {"description"}] == []


def test_groups_nest():
    inner = {"nodes": {"act": {"op": "relu", "in": "x", "gain": 1}}}
    spec = {"block": "b", "inputs": {"x": [1]}, "nodes": {"a": {"nodes": {"b": inner}}}, "outputs": {"x": "a"}}
    (error,) = VALIDATOR.iter_errors(spec)
    assert "'gain' was unexpected" in error.message


@pytest.mark.parametrize(
    ("name", "made", "option"), [("spec", schema, ""), ("edit", edits.schema, "--edit ")], ids=["spec", "edit"]
)
def test_the_committed_schema_is_what_the_command_prints(name, made, option):
    file = f"schema/{name}.schema.json"
    committed = Path(__file__).parent.parent / file
    assert json.loads(committed.read_text()) == made(OPS), f"run `blockgraph schema {option}-o {file}`"


@pytest.mark.parametrize("path", shipped_edits().values(), ids=lambda path: path.stem)
def test_shipped_edits_are_valid_and_name_their_schema(path):
    assert [error.message for error in EDITS.iter_errors(plain(read(path)))] == []
    named = path.read_text().partition("\n")[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve().name == "edit.schema.json"


def an_edit(*steps, **places):
    return {"edit": "mine", "title": "Mine", "places": places, "steps": list(steps)}


def test_the_places_that_all_edits_know_are_valid():
    places = plain(read(shared_places()))["places"]
    assert [error.message for error in EDITS.iter_errors(an_edit({"remove": "q"}, **places))] == []


@pytest.mark.parametrize(
    "step",
    [
        {"put": {"op": "soft_cap", "cap": 5}, "before": "mask"},
        {"put": {"op": "soft_cap", "cap": 5}, "as": "cap"},
        {"put": {"op": "soft_cap", "cap": 5, "in": "x"}, "as": "cap", "before": "mask"},
        {"put": {"op": "soft_cup"}, "as": "cap", "before": "mask"},
        {"put": {"op": "soft_cap", "cap": 5}, "as": "cap", "befor": "mask"},
        {"put": {"op": "relu"}, "as": "act", "after": "q", "unless": "actvation"},
        {"replace": "linears"},
        {"set": {"eps": 1}},
        {"wrap": "linears"},
        {"after": "mask"},
        {"remove": "q", "replace": "q", "by": {"op": "relu"}},
    ],
)
def test_bad_steps_are_not_valid(step):
    assert list(EDITS.iter_errors(an_edit(step)))


@pytest.mark.parametrize("place", [{"is": "haeds"}, {"feeds": "q", "reads": "k"}, {"fed": "q"}, "q"])
def test_bad_places_are_not_valid(place):
    assert list(EDITS.iter_errors(an_edit({"remove": "mine"}, mine=place)))


def test_every_key_of_an_edit_is_described_and_nothing_else():
    made = edits.schema(OPS)
    for fields, found in ((Header, made), *((f, made["definitions"][f.__name__.lower()]) for f in (Pattern, Step))):
        keys = found["properties"]
        assert set(keys) == {field.alias or name for name, field in fields.model_fields.items()}
        assert [key for key, value in keys.items() if not value.get("description") or len(value) < 2] == []

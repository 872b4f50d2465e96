"""The JSON Schema for editors agrees with the checker."""

import json
from pathlib import Path

import jsonschema
import pytest

from blockgraph.jsonschema import schema
from blockgraph.library import shipped
from blockgraph.ops import OPS
from blockgraph.syntax import parse, plain, read

BAD = Path(__file__).parent / "bad"
VALIDATOR = jsonschema.Draft7Validator(schema(OPS))
# What a schema can see.
VISIBLE = """
    unknown_op unknown_field unknown_field_value op_missing node_is_word op_is_number in_is_number title_is_list
    title_is_number header_missing header_no_kind header_both header_misspelt header_kinds group_empty group_with_in
    inputs_kinds outputs_kinds sizes_of_wrong_kind weight_not_there yaml_words
"""


def test_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(schema(OPS))


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


def test_the_committed_schema_is_what_the_command_prints():
    committed = Path(__file__).parent.parent / "schema/spec.schema.json"
    assert json.loads(committed.read_text()) == schema(OPS), "run `blockgraph schema -o schema/spec.schema.json`"

"""JSON Schema of edit files, by which editors complete and check one while it is written."""

from collections.abc import Mapping

from blockgraph.edits.file import NEEDS, VERBS, Header, Pattern, Step
from blockgraph.jsonschema import Schema, described, kind_of, node, property_of, table
from blockgraph.op import Op
from blockgraph.schema import Fields

_PATTERN: Schema = {"$ref": "#/definitions/pattern"}
_STEP: Schema = {"$ref": "#/definitions/step"}
_NODE: Schema = {"allOf": [{"$ref": "#/definitions/node"}]}
_WAYS = ("feeds", "reads")  # keys of a pattern that may hold one
_NODES = ("put", "by", "weight")  # keys of a step that hold a node


def schema(ops: Mapping[str, type[Op]]) -> Schema:
    """The schema of edit files written with these ops."""
    held = {"places": table(_PATTERN), "steps": {"type": "array", "items": _STEP, "minItems": 1}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "blockgraph edit",
        "definitions": {"pattern": _pattern(ops), "step": _step(ops), "node": _node(ops)},
        **_object(Header, held),
    }


def _pattern(ops: Mapping[str, type[Op]]) -> Schema:
    """A place: words that name ops or roles, and one way, to names of places or to another pattern."""
    ways = {"anyOf": [*kind_of(str | list[str])["anyOf"], _PATTERN]}
    held = dict.fromkeys(("is", "isnt", "through"), _kinds(ops)) | dict.fromkeys(_WAYS, ways)
    return _object(Pattern, held) | {"not": {"required": list(_WAYS)}}


def _step(ops: Mapping[str, type[Op]]) -> Schema:
    """A step: one verb, with what that verb needs."""
    needs: Schema = {verb: [key] for verb, key in NEEDS.items()}
    needs["put"] = {"required": ["as"], "oneOf": [{"required": ["after"]}, {"required": ["before"]}]}
    held = dict.fromkeys(_NODES, _NODE) | {"unless": _kinds(ops)}
    return _object(Step, held) | {"oneOf": [{"required": [verb]} for verb in VERBS], "dependencies": needs}


def _node(ops: Mapping[str, type[Op]]) -> Schema:
    """A node that an edit writes, which finds its inputs itself."""
    written = node(ops)
    for rule in written["allOf"]:
        del rule["then"]["properties"]["in"]
    return written


def _kinds(ops: Mapping[str, type[Op]]) -> Schema:
    """Names and roles of ops, one or several."""
    one: Schema = {"enum": sorted({*ops, *(op.style.role for op in ops.values())})}
    return {"anyOf": [one, {"type": "array", "items": one}]}


def _object(fields: type[Fields], held: Mapping[str, Schema]) -> Schema:
    """The keys of a mapping; `held` says what some of them hold where their types do not."""
    keys = {field.alias or name: field for name, field in fields.model_fields.items()}
    return {
        "type": "object",
        "properties": {
            key: described(held[key], field.description) if key in held else property_of(field)
            for key, field in keys.items()
        },
        "required": [key for key, field in keys.items() if field.is_required()],
        "additionalProperties": False,
    }

"""JSON Schema of the spec language, by which editors complete and check a file while it is written.

Draft-07, which is what the YAML language server knows. Each op is an `if` and `then` of its own, so that an editor
offers the keys of the op that is written and nothing else.
"""

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from blockgraph.dims import Number, Size
from blockgraph.fields import Init
from blockgraph.header import Header
from blockgraph.op import Op

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_EXPRESSION: Schema = {"type": ["number", "string"]}
_NODE: Schema = {"$ref": "#/definitions/node"}
_MEMBERS: Schema = {"$ref": "#/definitions/members"}
_VALUE: Schema = {
    "description": "what the node reads: a node, a port or an input, several as a list or by port; else the node above",
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _TEXT}],
}
_TITLE: Schema = {"type": "string", "description": "label in the figure"}
_KINDS: Mapping[object, Schema] = {
    bool: {"type": "boolean"},
    str: _TEXT,
    int: {"type": "integer"},
    float: {"type": "number"},
    Size: _EXPRESSION,
    Number: _EXPRESSION,
    Init: {"type": ["number", "string", "object"]},
}


def schema(ops: Mapping[str, type[Op]]) -> Schema:
    """The schema of block and model files written with these ops."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "blockgraph spec",
        "definitions": {"node": node(ops), "group": _group(), "member": _member(), "members": _members()},
        "type": "object",
        "properties": _header(),
        "required": [key for key, field in Header.model_fields.items() if field.is_required()],
        "oneOf": [{"required": ["block"]}, {"required": ["model"]}],
        "additionalProperties": False,
    }


def _header() -> Schema:
    """The keys of a file; where a value is a mapping, what it holds."""
    sizes = {"type": "array", "items": _EXPRESSION, "minItems": 1}
    held = {
        "dims": {"type": ["number", "string", "null"]},
        "slots": _TEXT,
        "sizes": table(_EXPRESSION),
        "inputs": sizes,
        "outputs": _TEXT,
        "blocks": {"$ref": "#"},
    }
    fields = Header.model_fields
    shapes = {key: table(held[key]) if key in held else kind_of(field.annotation) for key, field in fields.items()}
    shapes["nodes"] = _MEMBERS
    return {key: described(shapes[key], field.description) for key, field in fields.items()}


def node(ops: Mapping[str, type[Op]]) -> Schema:
    """A node: the op decides which keys there are."""
    return {
        "type": "object",
        "required": ["op"],
        "properties": {"op": {"enum": list(ops)}},
        "allOf": [
            {"if": {"properties": {"op": {"const": name}}, "required": ["op"]}, "then": _fields(op)}
            for name, op in ops.items()
        ],
    }


def _fields(op: type[Op]) -> Schema:
    fields = {key: property_of(field) for key, field in op.model_fields.items()}
    ports = {port: described({"anyOf": [_TEXT, _NODE]}, "a node or a value to take its place") for port in op.weights}
    about = (op.__doc__ or "").strip().partition("\n")[0]
    return {
        "properties": {"op": {"const": op.name, "description": about}, "in": _VALUE, "title": _TITLE} | fields | ports,
        "required": [key for key, field in op.model_fields.items() if field.is_required()],
        "additionalProperties": False,
    }


def property_of(field: FieldInfo) -> Schema:
    """What an author may write; the field says it itself where its type is that of what becomes of it."""
    own = field.json_schema_extra
    return described(own if isinstance(own, dict) else kind_of(field.annotation), field.description)


def kind_of(annotation: Any) -> Schema:
    """What a field's type lets an author write."""
    if annotation in _KINDS:
        return _KINDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(parts[0])
    if origin is Literal:
        return {"enum": list(parts)}
    if origin is list:
        return {"type": "array", "items": kind_of(parts[0])}
    if origin is dict:
        return table(kind_of(parts[1]))
    if origin in (Union, types.UnionType):
        kinds = [kind_of(part) for part in parts if part is not type(None)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return {}


def described(kind: Schema, description: str | None) -> Schema:
    """A schema with what an editor shows beside it."""
    return {**kind, "description": description} if description else kind


def table(kind: Schema) -> Schema:
    """A mapping with any names."""
    return {"type": "object", "additionalProperties": kind}


def _group() -> Schema:
    return {
        "type": "object",
        "properties": {"title": _TITLE, "nodes": _MEMBERS},
        "required": ["nodes"],
        "additionalProperties": False,
    }


def _member() -> Schema:
    group = {"$ref": "#/definitions/group"}
    return {"if": {"required": ["nodes"]}, "then": group, "else": _NODE}


def _members() -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[A-Za-z][A-Za-z0-9_]*$"},
        "additionalProperties": {"$ref": "#/definitions/member"},
    }

"""A graph as plain data: what it computes, without titles, places or the order of the text."""

import hashlib
import json
from typing import Any

import yaml

from blockgraph.dims import Number, Size
from blockgraph.fields import Init
from blockgraph.graph import Graph, Node
from blockgraph.op import Param


def canonical(graph: Graph) -> dict[str, Any]:
    """Everything that decides what the graph computes and how it is trained, as JSON data."""
    return {
        "inputs": {name: [_data(size) for size in kind.sizes] for name, kind in graph.inputs.items()},
        "nodes": {path: _node(node) for path, node in sorted(graph.unfused().nodes.items())},
        "outputs": {name: str(ref) for name, ref in graph.outputs.items()},
    }


def digest(graph: Graph) -> str:
    """A short hash of what the graph computes; equal for specs that differ in titles, comments or order alone."""
    return hashlib.sha256(json.dumps(canonical(graph), sort_keys=True).encode()).hexdigest()[:16]


def text(graph: Graph) -> str:
    """One whole spec, slots and blocks included, that loads to this graph again."""
    return yaml.safe_dump(dict(graph.source), sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def _node(node: Node) -> dict[str, Any]:
    fields = {name: _data(getattr(node.op, name)) for name in type(node.op).model_fields}
    return {
        "op": node.op.name,
        "fields": fields,
        "in": {port: [ref.kind, ref.owner, ref.port] for port, ref in node.inputs.items()},
        "parameters": [_param(param) for param in node.params],
        "blocks": [canonical(block) for block in node.blocks],
        "plan": list(node.plan),
    }


def _param(param: Param) -> list[Any]:
    return [param.name, [_data(size) for size in param.sizes], _data(param.init), param.decay, _data(param.lr)]


def _data(value: Any) -> Any:
    match value:
        case Size():
            return value.known if value.known is not None else str(value)
        case Number():
            return value.value if value.value is not None else value.source({name: name for name in value.free})
        case Init():
            return [value.kind, _data(value.number)]
        case list() | tuple():
            return [_data(item) for item in value]
        case dict():
            return {key: _data(item) for key, item in value.items()}
    return value

"""Checked graph to the text of a Python module: one class for each distinct block, lines that name the nodes."""

import ast
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

from blockgraph.canonical import canonical, digest
from blockgraph.dims import LAYER, RUNTIME, Number, Size
from blockgraph.graph import Graph, Node, Ref
from blockgraph.op import Init, Op

KERNELS = Path(__file__).parent / "kernels"
BASE = ("Weight", "initial_value", "Parameters", "GraphModule")

_IMPORTS = '''\
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
'''

_BUILD = '''\
def build(seed: int | None = 0) -> {name}:
    """The module with its initial values, which `seed` and each parameter's name decide; None leaves them unset."""
    module = {name}()
    if seed is not None:
        module.initialize(seed)
    return module
'''


def lower(graph: Graph) -> str:
    """Python text that needs torch alone and holds the graph's class, its blocks' classes and `build(seed)`."""
    classes = _Classes()
    root = classes.of(graph)
    parts = [
        f'"""{_line(graph.title or graph.name)}: compiled by blockgraph from {_line(graph.name)}, {digest(graph)}."""',
        _IMPORTS,
        *_definitions(classes.texts, graph),
        *classes.texts,
        _BUILD.format(name=root),
    ]
    return "\n\n".join(part.strip("\n") + "\n" for part in parts)


@dataclass
class _Classes:
    """The classes written so far, by what they compute."""

    names: dict[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def of(self, graph: Graph) -> str:
        """Name of the class of a graph; its text is written the first time."""
        key = json.dumps([graph.name, canonical(graph)], sort_keys=True)
        if key not in self.names:
            inner = {id(block): self.of(block) for node in graph.nodes.values() for block in node.blocks}
            taken = {*self.names.values(), *BASE}
            name = _unique("".join(part.capitalize() for part in graph.name.split("_")), taken)
            self.names[key] = name
            self.texts.append(_Class(graph, name, inner).text())
        return self.names[key]


@dataclass
class _Class:
    """One class in the making: lines of its constructor, its forward and its actions."""

    graph: Graph
    name: str
    inner: Mapping[int, str]

    def __post_init__(self) -> None:
        taken = {"self", "torch", "math", "F", "nn", "layer", *RUNTIME, *_sources()}
        self.variables: dict[Ref, str] = {}
        for ref in self.references():
            word = re.sub(r"\W", "_", f"{ref.owner}_{ref.port}" if ref.port not in ("", "out") else ref.owner)
            self.variables[ref] = _unique(word, taken)
            taken.add(self.variables[ref])

    def references(self) -> Iterable[Ref]:
        yield from (Ref("input", name) for name in self.graph.inputs)
        for node in self.graph.nodes.values():
            yield from (Ref("node", node.path, port) for port in node.outputs)

    def text(self) -> str:
        graph = self.graph
        about = ". ".join(part for part in (graph.title, graph.paper) if part)
        body = [f'    """{_line(graph.name)}{": " if about else ""}{_line(about)}."""', "", *self.constructor(), "", *self.forward()]
        for name, call in (("finish_init", "on_init"), ("finish_step", "on_step")):
            lines = [line for node in graph.nodes.values() if (line := self.action(node, call))]
            if lines:
                body += ["", f"    def {name}(self) -> None:", *lines]
        return "\n".join([f"class {self.name}(GraphModule):", *body])

    def constructor(self) -> list[str]:
        lines = ["    def __init__(self, layer: int = 0) -> None:", "        super().__init__()"]
        numbers = [number for node in self.graph.nodes.values() for number in _numbers(node.op)]
        if any(LAYER in number.free for number in numbers):
            lines.append("        self.layer = float(layer)")
        for node in self.graph.nodes.values():
            lines += self.stack(node) if node.blocks else self.tensors(node)
        return lines

    def tensors(self, node: Node) -> list[str]:
        lines = []
        for param in node.params:
            group = [f"decay={param.decay}"] * (not param.decay)
            group += [f"lr={self.number(param.lr, LAYER)}"] * (param.lr.value != 1.0)
            lines.append(self.declared(node, param.name, param.sizes, param.init, group))
        for state in node.states:
            lines.append(self.declared(node, state.name, state.sizes, state.init, ["trained=False"]))
        return lines

    def declared(self, node: Node, name: str, sizes: tuple[Size, ...], init: Init, group: list[str]) -> str:
        shape = "".join(f"{size.known}, " for size in sizes)
        shape = f"({shape.strip() if len(sizes) == 1 else shape.rstrip(', ')})"
        rest = "".join(f", {word}" for word in group)
        number = self.number(init.number, LAYER)
        return f'        self.declare("{node.home}.{name}", {shape}, "{init.kind}", {number}{rest})'

    def stack(self, node: Node) -> list[str]:
        kinds = [self.inner[id(node.blocks[index])] for index in node.plan]
        place = f"self.{node.path}"
        made = f"nn.ModuleList({kinds[0]}(layer) for layer in range({len(kinds)}))"
        if len(set(kinds)) > 1:
            made = f"nn.ModuleList(kind(layer) for layer, kind in enumerate([{', '.join(kinds)}]))"
        *parents, _ = node.path.split(".")
        outer = [f"        self.{'.'.join(parents[: i + 1])} = Parameters()" for i in range(len(parents))]
        shared = getattr(node.op, "share", [])
        paths = f"({', '.join(map(repr, shared))},)"
        return [*outer, f"        {place} = {made}", *([f"        share({place}, {paths})"] if shared else [])]

    def forward(self) -> list[str]:
        names = ", ".join(f"{self.variables[Ref('input', name)]}: Tensor" for name in self.graph.inputs)
        results = [self.variables[ref] if ref.kind != "param" else self.value(ref) for ref in self.graph.outputs.values()]
        kind = "Tensor" if len(results) == 1 else "tuple[Tensor, ...]"
        lines = [f"    def forward(self, {names}) -> {kind}:", *self.runtime()]
        for group, nodes in groupby(self.graph.nodes.values(), key=lambda node: node.group.partition("@")[0]):
            title = self.graph.groups[group].title if group in self.graph.groups else ""
            lines += [f"        # {group}: {_line(title)}"] if title else []
            for node in nodes:
                lines += self.loop(node) if node.blocks else [self.line(node)]
        return [*lines, f"        return {', '.join(results)}"]

    def runtime(self) -> list[str]:
        """Lines that bind `batch` and `seq` where some number or size is written in terms of them."""
        numbers = [number for node in self.graph.nodes.values() for number in _numbers(node.op)]
        wanted = {name for number in numbers for name in number.free if name != LAYER}
        lines = []
        for name, kind in self.graph.inputs.items():
            for axis, size in enumerate(kind.sizes):
                if str(size) in wanted:
                    wanted.discard(str(size))
                    lines.append(f"        {size} = {self.variables[Ref('input', name)]}.shape[{axis}]")
        return lines

    def line(self, node: Node) -> str:
        targets = ", ".join(self.variables[Ref("node", node.path, port)] for port in node.outputs)
        expression = node.op.lower(self, *self.arguments(node), **self.tensors_of(node))
        return f"        {targets} = {expression}  # {_place(node)}"

    def arguments(self, node: Node) -> list[str]:
        return [self.value(ref) for ref in node.data().values()]

    def tensors_of(self, node: Node) -> dict[str, str]:
        """Texts of parameters and states by name; a wired one is the value on its port."""
        owned = [param.name for param in node.params] + [state.name for state in node.states]
        texts = {name: f"self.{node.home}.{name}" for name in owned}
        return texts | {port: self.value(ref) for port, ref in node.inputs.items() if port in node.op.weights}

    def value(self, ref: Ref) -> str:
        if ref.kind == "param":
            return f"self.{self.graph.nodes[ref.owner].home}.{ref.port}"
        return self.variables[ref]

    def action(self, node: Node, call: str) -> str:
        """A statement after initialisation or after a step; it acts on the parameters themselves."""
        texts = {name: f"self.{node.home}.{name}" for name in [p.name for p in node.params] + [s.name for s in node.states]}
        texts |= {port: self.value(ref) for port, ref in node.data().items() if ref.kind == "param"}
        if not node.params:
            return ""
        statement = getattr(node.op, call)(self, **texts)
        return f"        {statement}  # {_place(node)}" if statement else ""

    def loop(self, node: Node) -> list[str]:
        """The layers of a stack: a loop over each run of layers that read and give the same names."""
        lines = []
        carried = {name: self.variables.get(Ref("node", node.path, name), "") for name in node.outputs}
        for name, ref in node.inputs.items():
            carried.setdefault(name, self.value(ref))
            if carried[name] != self.value(ref):
                lines.append(f"        {carried[name]} = {self.value(ref)}")
        runs = groupby(enumerate(node.plan), key=lambda item: _signature(node.blocks[item[1]]))
        for (reads, gives), layers in runs:
            indices = [index for index, _ in layers]
            whole = len(indices) == len(node.plan)
            part = "" if whole else f"[{indices[0]}:{indices[-1] + 1}]"
            results = ", ".join(carried[name] for name in gives)
            given = ", ".join(carried[name] for name in reads)
            lines.append(f"        for layer in self.{node.path}{part}:  # {_place(node)}")
            lines.append(f"            {results} = layer({given})")
        return lines

    def number(self, number: Number, layer: str = "self.layer") -> str:
        """Python text of a number at its place in `forward`."""
        return number.source({LAYER: layer} | {name: name for name in number.free if name != LAYER})

    def size(self, size: Size) -> str:
        """Python text of a size that is bound."""
        assert size.known is not None, size
        return str(size.known)


def _signature(block: Graph) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(block.inputs), tuple(block.outputs)


def _numbers(op: Op) -> list[Number]:
    values = [getattr(op, name) for name in type(op).model_fields]
    inner = [value.number for value in values if isinstance(value, Init)]
    return [value for value in values if isinstance(value, Number)] + inner


def _place(node: Node) -> str:
    return f"{Path(node.place.file).name}:{node.place.line}"


def _line(text: str) -> str:
    """A user's text on one line of a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def _unique(word: str, taken: Iterable[str]) -> str:
    known, name, count = set(taken), word, 2
    while name in known:
        name, count = f"{word}_{count}", count + 1
    return name


def _definitions(texts: list[str], graph: Graph) -> list[str]:
    """Sources of the base classes and of every function the classes call, each after the ones it calls itself.

    The functions are the package's kernels and those in the files of the user's own ops.
    """
    known = dict(_sources())
    for _, _, node in graph.walk():
        known |= {} if type(node.op).__module__.startswith("blockgraph.") else _file_sources(_file(type(node.op)))
    ordered: dict[str, str] = {}
    for name in (*BASE, *(name for text in texts for name in sorted(_names(text)))):
        _collect(name, known, ordered)
    return list(ordered.values())


def _collect(name: str, known: Mapping[str, str], ordered: dict[str, str]) -> None:
    if name in ordered or name not in known:
        return
    for other in sorted(_names(known[name]) - {name}):
        _collect(other, known, ordered)
    ordered[name] = known[name]


def _names(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def _file(op: type[Op]) -> Path:
    return Path(inspect.getfile(op))


@cache
def _sources() -> dict[str, str]:
    """Every function and class of `blockgraph/kernels/`, by name."""
    return {name: text for path in sorted(KERNELS.glob("*.py")) for name, text in _file_sources(path).items()}


@cache
def _file_sources(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found

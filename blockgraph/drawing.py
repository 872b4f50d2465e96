"""Figures as files: a graph, or what two differ in, in the format that the file's name asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import networkx as nx

from blockgraph.compare import Diff, compare
from blockgraph.cost import cost
from blockgraph.errors import Place, Problem, SpecError, near_miss
from blockgraph.figure import dot, engine, mermaid, tikz
from blockgraph.figure.collapse import readable
from blockgraph.figure.compose import compose
from blockgraph.figure.heat import Measured, heated
from blockgraph.figure.overlay import overlay, panels
from blockgraph.figure.parts import Scene
from blockgraph.figure.picture import PLAIN, Detail, Picture, picture
from blockgraph.figure.sheet import side_by_side, titled, with_legend
from blockgraph.figure.svg import finished
from blockgraph.figure.text import short
from blockgraph.figure.variants import variants
from blockgraph.files import write
from blockgraph.graph import Graph
from blockgraph.load import Setting, load

TEXTS: Mapping[str, Callable[[Scene], str]] = {".dot": dot.dot, ".mmd": mermaid.mermaid, ".tex": tikz.tikz}
T = TypeVar("T")
SUFFIXES = (".svg", ".pdf", ".png", *TEXTS)


@dataclass(frozen=True, slots=True)
class Options:
    """What a figure shows besides its boxes; without `aligned`, rows that only other blocks use close up."""

    detail: Detail = PLAIN
    title: str | None = None
    legend: bool = True
    aligned: bool = True
    measured: Measured | None = None


def render(
    spec: Graph | str, path: str | Path, *, base: Graph | str | None = None, shapes: bool = False, cost: bool = False,
    title: str | None = None, legend: bool = True, aligned: bool = True, seq: int = 1024, **settings: Setting,
) -> Path:  # fmt: skip
    """Draw a spec, or what it changes against `base`, to a file; returns its path.

    The suffix chooses the format: .svg .pdf .png .dot .mmd .tex. `shapes` prints what flows along the edges, by the
    dims' names, or as numbers once `settings` say how large they are; `cost` prints parameters, and the FLOPs of a
    forward pass over one sequence of `seq` tokens. Shipped blocks and their like leave room for each other's nodes
    unless `aligned` is off. Raises `SpecError`.
    """
    suffix(path)
    detail = Detail(("numbers" if settings else "names") if shapes else "", cost, seq=seq)
    options = Options(detail, title, legend, aligned)
    graph = _graph(spec, settings)
    if base is None:
        return save(figure(graph, options), path)
    return save(changes(compare(_graph(base, for_base(graph, settings)), graph), options), path)


def for_base(graph: Graph, settings: Mapping[str, T]) -> dict[str, T]:
    """The settings that hold for what a graph is compared with too: its dims, and not what fills its slots."""
    return {name: value for name, value in settings.items() if name not in graph.source.get("slots", {})}


def suffix(path: str | Path) -> str:
    """The suffix of a path, in lower case; raises `SpecError` for one that is no format."""
    found = Path(path).suffix.lower()
    if found not in SUFFIXES:
        hint = near_miss(found, SUFFIXES) or f"formats are {', '.join(SUFFIXES)}"
        told = f"'{found}' is not a format of figures" if found else "the file's name says no format"
        raise SpecError([Problem(told, Place(str(path), 0), hint)])
    return found


def save(scene: Scene, path: str | Path) -> Path:
    """Write a scene in the format of the path's suffix; raises `SpecError`."""
    found = suffix(path)
    if found in TEXTS:
        return write(path, TEXTS[found](scene))
    if found == ".svg":
        return write(path, svg_of(scene, str(path)))
    return write(path, engine.draw(dot.dot(scene), "pdf" if found == ".pdf" else "png", str(path)))


def svg(shown: Graph | Diff) -> str:
    """The SVG of a graph, or of two graphs side by side; raises `SpecError` where Graphviz is missing."""
    return svg_of(figure(shown) if isinstance(shown, Graph) else beside(shown))


def figure(graph: Graph, options: Options = Options()) -> Scene:
    """The figure of a graph."""
    drawn = picture(graph, options.detail)
    drawn = readable(heated(drawn, options.measured) if options.measured else drawn)
    return _finished(_composed([drawn], graph, options)[0], graph.title or graph.name, _lines(graph, options), options)


def changes(diff: Diff, options: Options = Options()) -> Scene:
    """The figure of the second graph, with what it adds, removes and changes marked."""
    drawn = readable(overlay(diff, options.detail))
    title = f"{diff.b.title or diff.b.name}, against {diff.a.title or diff.a.name}"
    return _finished(_composed([drawn], diff.b, options)[0], title, _lines(diff.b, options), options)


def beside(diff: Diff, options: Options = Options()) -> Scene:
    """Both graphs side by side, what they share at one height."""
    scenes = _composed([readable(panel) for panel in panels(diff, options.detail)], diff.b, options)
    titles = [graph.title or graph.name for graph in (diff.a, diff.b)]
    lines = [_lines(graph, options) for graph in (diff.a, diff.b)]
    most = max(len(each) for each in lines)
    named = [
        titled(scene, title, [*each, *[""] * (most - len(each))])
        for scene, title, each in zip(scenes, titles, lines, strict=True)
    ]
    whole = side_by_side(named)
    whole = replace(whole, about=options.title or whole.about)
    return with_legend(whole) if options.legend else whole


def _composed(drawn: Sequence[Picture], graph: Graph, options: Options) -> list[Scene]:
    """The scenes, among the shipped blocks' places where those fit."""
    others = variants(graph, drawn, options.detail) if options.aligned else []
    try:
        return compose(drawn, others)
    except nx.NetworkXUnfeasible:  # the same nodes in another order
        return compose(drawn)


def _finished(scene: Scene, title: str, lines: Sequence[str], options: Options) -> Scene:
    scene = titled(scene, title if options.title is None else options.title, lines)
    return with_legend(scene) if options.legend else scene


def _lines(graph: Graph, options: Options) -> list[str]:
    """What stands below the title: where it is from, and what it costs in total."""
    lines = [graph.paper] if graph.paper else []
    lines += [options.measured.told] if options.measured else []
    if options.detail.cost:
        costs, seq = cost(graph), options.detail.seq
        work = short(costs.flops(1, seq), "FLOP")
        lines.append(f"{short(costs.parameters)} parameters, {work} forward for {seq} tokens")
    return lines


def svg_of(scene: Scene, path: str = "figure.svg") -> str:
    """The SVG of a scene; raises `SpecError` where Graphviz is missing."""
    return finished(engine.draw(dot.dot(scene), "svg", path), scene)


def _graph(spec: Graph | str, settings: Mapping[str, Any]) -> Graph:
    return spec if isinstance(spec, Graph) else load(spec, **settings)

"""The norms of a run as colours on the block's own figure, one step after another."""

import math
from dataclasses import replace

import numpy as np

from blockgraph.drawing import Options, svg_of
from blockgraph.drawing import figure as drawing
from blockgraph.errors import SpecError
from blockgraph.figure import dot, engine
from blockgraph.figure.heat import Measured
from blockgraph.graph import Graph
from runners.lab.lab import Lab
from runners.lab.measured import ends, paths
from runners.lab.plots import Figure, named
from runners.lab.probed import course, layers, sites
from runners.lab.section import Section
from runners.lab.sections.norms import pair_of
from runners.lab.slider import Panel, Slider
from runners.lab.trials import Trial

TITLE = "The same norms on the block's figure"
QUANTITY, WORDS = "y.l2", "L2 norm of the output"
STEPS = 60  # that a slider has at most
HOW = (
    "L2 norm of what each linear gives, as colours on the figure of the block itself: light is the smallest and dark "
    "the largest of both runs at any step, on a logarithmic scale, and every box shows its number. In the HTML page a "
    "slider goes through the steps; elsewhere the last one is shown."
)

Values = dict[str, list[float]]  # of each node at each step


def section(lab: Lab) -> Section:
    """The converging and the diverging run side by side."""
    pair = pair_of(lab)
    if pair is None:
        return Section(TITLE, missing="probes of the linears in a run that converged and in one that diverged")
    found = layers(pair.steady, f".{QUANTITY}")
    layer = lab.layer if lab.layer in found else found[0]
    steps = _steps([trial for _, trial in pair.both], layer)
    values = [_values(trial, layer, steps) for _, trial in pair.both]
    low, high = ends(v for each in values for series in each.values() for v in series)
    scale = Measured({}, "", low, high)
    try:
        drawn = [
            _drawn(trial, layer, steps, each, scale, f"{trial.arm}, layer {layer}, {words}", index)
            for index, ((words, trial), each) in enumerate(zip(pair.both, values, strict=True))
        ]
    except SpecError as error:
        return Section(TITLE, missing=f"Graphviz to draw the block: {error.problems[0].message}")
    slider = Slider(f"Step at which the {WORDS} is shown", steps, tuple(panel for _, panel in drawn))
    return Section(TITLE, (HOW,), figures=tuple(figure for figure, _ in drawn), sliders=(slider,))


def _steps(trials: list[Trial], layer: int) -> list[int]:
    """Steps at which any of the runs was probed, evenly thinned, the last of each kept."""
    names = [f"{site}.{QUANTITY}" for site in sites(trials[0], layer, f".{QUANTITY}")]
    found = sorted({int(s) for t in trials for name in names if (seen := course(t, name)) for s in seen.steps})
    kept = np.unique(np.linspace(0, len(found) - 1, min(STEPS, len(found))).round().astype(int))
    return [found[place] for place in kept]


def _values(trial: Trial, layer: int, steps: list[int]) -> Values:
    """The quantity at each node of the block; a run that ended earlier keeps its last value, where it has ended."""
    found: Values = {}
    for site in sites(trial, layer, f".{QUANTITY}"):
        name = f"{site}.{QUANTITY}"
        if seen := course(trial, name):
            found[paths(name, QUANTITY)[-1]] = [seen.at(max(step, int(seen.steps[0]))) for step in steps]
    return found


def _drawn(
    trial: Trial, layer: int, steps: list[int], values: Values, scale: Measured, caption: str, index: int
) -> tuple[Figure, Panel]:
    """The figure at the last step, and the panel with all of them."""
    last = replace(scale, values={node: each[-1] for node, each in values.items()}, words=WORDS)
    scene = drawing(_block(trial, layer), Options(measured=last, aligned=False, title=caption))
    nodes = {node: [(_word(v), scale.colour(v)) for v in each] for node, each in values.items()}
    at = f"{caption}, at step {steps[-1]}"
    about = f"{at}: {last.told}. " + "; ".join(f"{node} {_word(each[-1])}" for node, each in values.items())
    name = f"blockmap-{index}"
    svg = named(svg_of(replace(scene, about=about)), name)
    return Figure(name, f"{at}. {last.told}.", about, svg, engine.draw(dot.dot(scene), "pdf", name)), Panel(
        svg, caption, nodes
    )


def _block(trial: Trial, layer: int) -> Graph:
    """The block that a layer runs."""
    stack = next(node for node in trial.graph.nodes.values() if node.blocks)
    return stack.blocks[stack.plan[layer]]


def _word(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"

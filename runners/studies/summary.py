"""What a study has come to, in lines of text."""

from collections import Counter
from collections.abc import Iterable

from runners.studies import stability
from runners.studies.axes import SEED
from runners.studies.board import told_end
from runners.studies.stability import Edge, Range
from runners.study import Study


def summary(study: Study) -> list[str]:
    """How many cells are in which state, and what failed."""
    counts = Counter(cell.state for cell in study.cells)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    failed = [f"{cell.name}: {told_end(cell)}" for cell in study.cells if cell.state == "failed"]
    return [f"{study.directory}: {len(study.cells)} cells: {told}", *failed]


def edges(study: Study) -> Iterable[str]:
    """A line for each setting: its highest stable learning rate, with the range over seeds."""
    for found in stability.ranges(study):
        name = ", ".join(f"{axis} {label}" for axis, label in found.settings.items()) or "all cells"
        yield f"{name}: {_highest(found)}"
        yield from (f"  {told}" for edge in found.edges for told in _odd(edge, len(found.edges) > 1))


def _highest(found: Range) -> str:
    rates = found.stable
    diverged = [edge.diverged for edge in found.edges if edge.diverged is not None]
    if not rates:
        return f"stable nowhere; diverged from {min(diverged):g}, the lowest learning rate that was tried"
    over = f" ({min(rates):g} to {max(rates):g} over {len(rates)} seeds)" if len(rates) > 1 else ""
    until = f"; diverged from {min(diverged):g}" if diverged else ", the highest that was tried"
    return f"stable up to a learning rate of {found.middle:.4g}{over}{until}"


def _odd(edge: Edge, several: bool) -> Iterable[str]:
    """What the line of all seeds hides: one that is stable above the edge or, of several, nowhere or everywhere."""
    seed = f"seed {edge.settings[SEED]}: " if SEED in edge.settings else ""
    if edge.beyond:
        rates = ", ".join(f"{rate:g}" for rate in edge.beyond)
        yield f"{seed}not monotone: diverged at {edge.diverged:g}, yet stable at {rates}"
    if several and edge.stable is None:
        yield f"{seed}stable nowhere below {edge.diverged:g}, the lowest learning rate that diverged"
    if several and edge.diverged is None:
        yield f"{seed}stable up to {edge.stable:g}, the highest learning rate that was tried"

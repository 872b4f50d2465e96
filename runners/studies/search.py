"""Search for the highest stable learning rate: bisection on a log scale, each probe a cell of the study."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from blockgraph.errors import Place
from blockgraph.syntax import Mapping as Text
from blockgraph.syntax import Scalar
from runners.studies import axes, stability
from runners.studies.axes import LR, Point, Points
from runners.studies.config import MaxLr
from runners.studies.directory import StudyDir
from runners.studies.file import Planned, StudyFile
from runners.studies.stability import Edge
from runners.study import Cell, Study

DIGITS = 4  # of a learning rate that is tried
PROBED = Place("<max-lr>", 0)


@dataclass(frozen=True)
class Search:
    """What to try next, decided by the outcomes alone: it goes on from whatever cells have ended."""

    file: StudyFile
    directory: StudyDir
    bounds: MaxLr
    study: Study

    def wanted(self, cells: Mapping[str, Cell]) -> list[Planned]:
        """The next probe for each set of settings whose edge is not found yet."""
        edges = stability.edges(replace(self.study, cells=[*cells.values()]))
        found = {json.dumps(edge.settings): edge for edge in edges}
        probes = []
        for points in self._searches:
            settings = axes.settings(points)
            rate = next_rate(found.get(json.dumps(settings), Edge(settings, None, None)), self.bounds)
            probes += [self._probe(points, rate)] if rate else []
        return probes

    @property
    def _searches(self) -> list[Points]:
        """The points of the study without a learning rate, each once."""
        found = [tuple(point for point in points if point.axis != LR) for points in self.file.points]
        return list({json.dumps(axes.settings(points)): points for points in found}.values())

    def _probe(self, points: Points, rate: float) -> Planned:
        keys = Text({LR: Scalar(rate, PROBED, json.dumps(rate))}, {LR: PROBED}, PROBED)
        return self.file.planned((*points, Point(LR, rate, keys)), self.directory.taken, probe=True)


def next_rate(edge: Edge, bounds: MaxLr) -> float | None:
    """The learning rate to try next: the bounds first, then the middle of what is known; None when there is no need."""
    if edge.stable is None:
        return bounds.low if edge.diverged is None or edge.diverged > bounds.low else None
    if edge.diverged is None:
        return bounds.high if edge.stable < bounds.high else None
    middle = float(f"{math.sqrt(edge.stable * edge.diverged):.{DIGITS}g}")
    return None if edge.within(bounds.factor) or middle in (edge.stable, edge.diverged) else middle

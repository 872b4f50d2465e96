"""Layers of a stack as loops: what repeats is written once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MAX_PERIOD = 16  # layers of a repeating pattern that is still written as one loop


@dataclass(frozen=True)
class Run:
    """Layers from `first` on that repeat with a period, so often."""

    first: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """The layer after the last one."""
        return self.first + self.period * self.count


def runs(layers: Sequence[Hashable]) -> list[Run]:
    """All layers in order, in as few runs as a look ahead finds."""
    found: list[Run] = []
    while not found or found[-1].end < len(layers):
        found.append(_next(layers, found[-1].end if found else 0))
    return found


def listed(kinds: Sequence[str]) -> str:
    """Text of a list with the class of every layer, such as `[Left, Right] * 3 + [Last]`."""
    parts = []
    for run in runs(kinds):
        times = f" * {run.count}" if run.count > 1 else ""
        parts.append(f"[{', '.join(kinds[run.first : run.first + run.period])}]{times}")
    return " + ".join(parts)


def loops(layers: str, calls: Sequence[tuple[str, str]], place: str, method: str = "") -> list[str]:
    """Lines that call all layers in order; `calls` has the results and the arguments of each, as text."""
    return [line for run in runs(calls) for line in _loop(layers, calls, run, place, method)]


def _next(layers: Sequence[Hashable], first: int) -> Run:
    """The run that begins here and reaches furthest, with the shortest period."""
    best = Run(first, 1, 1)
    for period in range(1, min(MAX_PERIOD, (len(layers) - first) // 2) + 1):
        end = first + period
        while end < len(layers) and layers[end] == layers[end - period]:
            end += 1
        run = Run(first, period, (end - first) // period)
        if run.count > 1 and run.end > best.end:
            best = run
    return best


def _loop(layers: str, calls: Sequence[tuple[str, str]], run: Run, place: str, method: str) -> list[str]:
    if run.end - run.first == 1:
        head, names, indent = "", [f"{layers}[{run.first}]"], ""
    elif run.period == 1:
        part = "" if run.end - run.first == len(calls) else f"[{run.first}:{run.end}]"
        head, names, indent = f"for layer in {layers}{part}:  # {place}", ["layer"], "    "
    else:
        head = f"for layer in range({run.first}, {run.end}, {run.period}):  # {place}"
        names = [f"{layers}[layer{f' + {index}' if index else ''}]" for index in range(run.period)]
        indent = "    "
    note = "" if head else f"  # {place}"
    inner = zip(names, calls[run.first : run.first + run.period], strict=True)
    lines = [f"{indent}{results} = {name}{method}({arguments}){note}" for name, (results, arguments) in inner]
    return [head, *lines] if head else lines

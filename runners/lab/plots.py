"""Vector figures by matplotlib: one look for all, the same bytes for the same numbers."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from runners.curves import COLOURS, DASHES
from runners.lab.words import count

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
STYLE: Any = {  # matplotlib types each of its own settings
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.titlesize": 9,
}
WIDTH = 7.2  # inches: a page's text
LINE = 0.19  # inches: a line of a legend
FEW, NARROW = 150.0, 4.0  # highest over lowest value of an axis whose ticks are numbers, and evenly spaced ones
NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}  # metadata that would name dates and sites
MANY = 1e4  # from which on a tick is written as 20k

Draw = Callable[[Any], None]  # takes the array of axes, rows by columns


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG and as PDF; `about` says in words what it shows, for those who do not see it."""

    name: str
    caption: str
    about: str
    svg: str
    pdf: bytes


def figure(
    name: str, caption: str, about: str, draw: Draw, rows: int = 1, columns: int = 1, height: float = 3.6,
    share: bool = False,
) -> Figure:  # fmt: skip
    """A figure of rows by columns of axes, each row `height` inches high, with one legend for all beside or below them.

    `share` gives all axes one scale, and labels to the outer ones only.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        sheet = Sheet(figsize=(WIDTH, height * rows), layout="constrained")
        axes = sheet.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
        draw(axes)
        for each in axes.flat:
            _ticks(each.xaxis)
            _ticks(each.yaxis)
        _legend(sheet, axes, beside=columns == 1)
        sheet.draw_without_rendering()
        sheet.set_layout_engine("none")  # laid out once, for both formats
        return Figure(name, caption, about, _svg(sheet, name, about), _pdf(sheet))


def look(index: int, marked: bool = True) -> dict[str, Any]:
    """How the line of a number is drawn: colour, dash and marker differ, so that grey is enough to tell them apart."""
    marker = {"marker": MARKERS[index % len(MARKERS)], "markerfacecolor": "white" if index % 2 else None}
    looks = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
    return looks | {key: value for key, value in marker.items() if marked and value}


def label(axes: Axes, x: str, y: str, log: str = "") -> None:
    """Labels with units, and logarithmic scales for the axes that `log` names."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")


def room(axes: Axes, values: list[float], cap: float) -> list[float]:
    """Values for drawing, where those that are not finite or above `cap` stand at the cap."""
    return [value if np.isfinite(value) and value <= cap else cap for value in values]


def named(svg: str, name: str) -> str:
    """An SVG whose ids begin with a name of its own, so that several can stand on one page."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def _ticks(axis: Any) -> None:
    """Numbers for the ticks of a logarithmic axis that spans few decades, where powers of ten are too sparse."""
    if axis.get_scale() != "log" or not axis.get_visible():
        return
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if high < low * FEW:
        narrow = high < low * NARROW
        axis.set_major_locator(MaxNLocator(4) if narrow else LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: count(x) if x >= MANY else f"{x:g}"))


def _legend(sheet: Sheet, axes: Any, beside: bool) -> None:
    """One legend to the right or below, an entry for each label that any of the axes has."""
    found: dict[str, Any] = {}
    for each in axes.flat:
        for handle, text in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    if found and beside:
        sheet.legend(found.values(), found.keys(), loc="outside right upper")
    elif found:
        wide, high = sheet.get_size_inches()
        across = 4 if max(map(len, found)) < 22 else 2
        sheet.set_size_inches(wide, high + LINE * -(-len(found) // across))
        sheet.legend(found.values(), found.keys(), loc="outside lower left", ncols=across)


def _svg(sheet: Sheet, name: str, about: str) -> str:
    """The SVG element alone, with names of its own, so that several can stand on one page."""
    stream = io.StringIO()
    sheet.savefig(stream, format="svg", metadata=NOTHING)
    text = stream.getvalue()
    text = named(text[text.index("<svg") :], name)
    escaped = about.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escaped}" ', 1)


def _pdf(sheet: Sheet) -> bytes:
    stream = io.BytesIO()
    sheet.savefig(stream, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return stream.getvalue()

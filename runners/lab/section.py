"""The parts of a report: sections of text, tables and figures."""

from dataclasses import dataclass

from runners.lab.plots import Figure
from runners.lab.slider import Slider


@dataclass(frozen=True)
class Table:
    """Rows of text below their headings; the first column names the row, the others hold numbers, or words."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


@dataclass(frozen=True)
class Section:
    """One question and its answer; `missing` says what the study lacks for it, where it has none.

    Where pages can have sliders, these stand in the place of the figures.
    """

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    sliders: tuple[Slider, ...] = ()
    missing: str = ""

"""A report as Markdown, with its figures beside it as SVG."""

from collections.abc import Callable

from runners.lab.plots import Figure
from runners.lab.report import Report
from runners.lab.section import Section, Table

SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#$~"})


def markdown(report: Report, place: Callable[[Figure, str], str]) -> str:
    """The text; `place` tells the path of a figure's file in a format."""
    parts = [f"# {escaped(report.title)}"]
    for section in report.sections:
        parts += _section(section, place)
    if report.told:
        parts += ["## What this study does not answer", *(f"- {escaped(line)}" for line in report.told)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(text.split()).translate(SPECIAL)


def _section(section: Section, place: Callable[[Figure, str], str]) -> list[str]:
    parts = [f"## {escaped(section.title)}", *map(escaped, section.text)]
    for table in section.tables:
        parts += [escaped(table.caption), _table(table)]
    for figure in section.figures:
        parts += [f"![{escaped(figure.about)}]({place(figure, 'svg')})", f"*{escaped(figure.caption)}*"]
    return parts


def _table(table: Table) -> str:
    aligned = ["---"] + ["---" if table.words else "---:"] * (len(table.headings) - 1)
    lines = [map(escaped, table.headings), aligned, *(map(escaped, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""A report as one self-contained HTML page."""

import re

from runners.lab.report import Report
from runners.lab.section import Section
from runners.lab.slider import SCRIPT
from runners.page import Page


def html(report: Report) -> str:
    """The page: every figure is inside it, and nothing is loaded from anywhere."""
    page = Page(report.title)
    page.contents([(anchor(section.title), section.title) for section in report.sections])
    for section in report.sections:
        _section(page, section)
    if any(section.sliders for section in report.sections):
        page.script(SCRIPT)
    if report.told:
        page.heading("What this study does not answer", "unanswered")
        for line in report.told:
            page.text(line)
    return str(page)


def anchor(title: str) -> str:
    """A title as the name of a place on the page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(page: Page, section: Section) -> None:
    page.heading(section.title, anchor(section.title))
    for text in section.text:
        page.text(text)
    for table in section.tables:
        page.table(table.headings, table.rows, table.caption, table.words)
    for slider in section.sliders:
        page.parts.append(slider.html)
    for figure in () if section.sliders else section.figures:
        page.drawing(figure.svg, figure.caption)

"""A study to the sections of its report."""

from collections.abc import Callable
from dataclasses import dataclass

from runners.lab.lab import Lab
from runners.lab.section import Section, Table
from runners.lab.sections import (
    attention,
    blockmap,
    cause,
    curves,
    epsilon,
    forecast,
    knobs,
    norms,
    order,
    output,
    rates,
    shape,
    softmax,
    table3,
    table4,
    two,
    warnings,
)
from runners.lab.words import number
from runners.study import Cell

SECTIONS: tuple[Callable[[Lab], Section], ...] = tuple(
    module.section
    for module in (
        table3,
        order,
        table4,
        curves,
        norms,
        blockmap,
        cause,
        softmax,
        attention,
        warnings,
        rates,
        shape,
        forecast,
        knobs,
        output,
        two,
        epsilon,
    )
)
ORDER = ("finished", "diverged", "running", "stopped", "failed", "missing")


@dataclass(frozen=True)
class Report:
    """All sections of a study's report; `told` are the questions that this study cannot answer, and why."""

    title: str
    sections: tuple[Section, ...]
    told: tuple[str, ...]


def report(lab: Lab) -> Report:
    """The report of a study, whether it is over or not."""
    found = [section(lab) for section in SECTIONS]
    answered = tuple(section for section in found if not section.missing)
    told = tuple(f"{section.title}: it takes {section.missing}." for section in found if section.missing)
    return Report(f"Study {lab.study.name}", (_about(lab), *answered), told)


def _about(lab: Lab) -> Section:
    """What was run, how it stands, and how to go on where it is not over."""
    cells = lab.study.cells
    states = {state: sum(cell.state == state for cell in cells) for state in ORDER}
    stands = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    text = [f"{len(cells)} cells: {stands}."]
    if open_cells := [cell for cell in cells if not cell.ended]:
        text.append(
            f"The study is not over: {len(open_cells)} cells have no result yet, and nothing below counts them. The "
            f"same `blockgraph sweep` command that began {lab.study.directory} goes on with them; then run this report "
            f"again."
        )
    axes = [(axis, ", ".join(map(_value, values))) for axis, values in lab.study.axes.items()]
    tables = [Table("What was varied.", ("axis", "values"), tuple(axes), words=True)]
    if bad := [cell for cell in open_cells if cell.state not in ("missing", "running")]:
        rows = tuple((cell.name, cell.state, str(cell.facts.get("reason", ""))) for cell in bad)
        tables.append(Table("Cells that ended without a result.", ("cell", "state", "reason"), rows, words=True))
    if diverged := [cell for cell in cells if cell.state == "diverged"]:
        rows = tuple((cell.name, number(_step(cell), 6), _why(cell)) for cell in diverged)
        tables.append(
            Table("Cells that ended by the rule before their last step.", ("cell", "step", "reason"), rows, words=True)
        )
    return Section("What was run", tuple(text), tuple(tables))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _step(cell: Cell) -> float | None:
    return cell.facts.get("step")


def _why(cell: Cell) -> str:
    return f"{cell.facts.get('rule', '')}: {cell.facts.get('reason', '')}".strip(": ")

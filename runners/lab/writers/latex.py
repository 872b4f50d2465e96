"""A report as LaTeX, with its figures beside it as PDF."""

from collections.abc import Callable

from runners.lab.plots import Figure
from runners.lab.report import Report
from runners.lab.section import Section, Table

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{amssymb}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[margin=2.5cm]{geometry}
"""
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"\textquotedbl{}", "✓": r"$\checkmark$", "✗": r"$\times$",
    "×": r"$\times$", "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$", "–": "--", "−": "$-$", "ε": r"$\varepsilon$",
    "²": r"\textsuperscript{2}", "°": r"\textdegree{}", "σ": r"$\sigma$",
}  # fmt: skip
LETTERS = str.maketrans(SPECIAL)
FIT = r"width=\linewidth,height=0.8\textheight,keepaspectratio"
WIDEST = 6  # columns up to which a table keeps its size; wider ones are scaled to the line


def latex(report: Report, place: Callable[[Figure, str], str]) -> str:
    """The document; `place` tells the path of a figure's file in a format."""
    parts = [PREAMBLE, rf"\title{{{escaped(report.title)}}}", r"\date{}", r"\begin{document}", r"\maketitle"]
    for section in report.sections:
        parts += _section(section, place)
    if report.told:
        items = [rf"\item {escaped(line)}" for line in report.told]
        parts += [r"\section{What this study does not answer}", r"\begin{itemize}", *items, r"\end{itemize}"]
    return "\n".join([*parts, r"\end{document}", ""])


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is, on one line; what pdfLaTeX has no letter for becomes a question mark."""
    known = "".join(char if char in SPECIAL or ord(char) < 256 else "?" for char in " ".join(text.split()))
    return known.translate(LETTERS)


def _section(section: Section, place: Callable[[Figure, str], str]) -> list[str]:
    parts = [rf"\section{{{escaped(section.title)}}}"]
    for text in section.text:
        parts += [escaped(text), ""]
    for table in section.tables:
        parts += _table(table)
    for figure in section.figures:
        parts += [
            r"\begin{figure}[htbp]", r"\centering", rf"\includegraphics[{FIT}]{{{place(figure, 'pdf')}}}",
            rf"\caption{{{escaped(figure.caption)}}}", r"\end{figure}",
        ]  # fmt: skip
    return parts


def _table(table: Table) -> list[str]:
    column = rf"p{{{0.8 / len(table.headings):.2f}\linewidth}}" if table.words else "r"
    columns = "l" + column * (len(table.headings) - 1)
    body = [rf"{' & '.join(map(escaped, row))} \\" for row in table.rows]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{' & '.join(map(escaped, table.headings))} \\"]
    lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    if len(table.headings) > WIDEST:
        lines = [r"\resizebox{\linewidth}{!}{%", *lines[:-1], lines[-1] + "}"]
    return [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{escaped(table.caption)}}}", *lines, r"\end{table}"]

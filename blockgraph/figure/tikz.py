"""A scene as a LaTeX document: TikZ at the same coordinates, in the paper's own fonts."""

from collections.abc import Iterator, Mapping

from blockgraph.figure.dot import BEHIND, SHADOW_STEP
from blockgraph.figure.parts import Box, Plate, Scene, Wire, WireKind, two_lines
from blockgraph.figure.style import (
    ADDED,
    CLUSTER_FILL,
    CLUSTER_LINE,
    FAINT,
    INK,
    LABEL,
    LOOKS,
    PAPER,
    PLATE_FILL,
    RESIDUAL,
    WEIGHT,
    Point,
    corners,
)  # fmt: skip

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    '"': r"\textquotedbl{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "σ": r"$\sigma$", "×": r"$\times$", "−": r"$-$", "≠": r"$\neq$", "→": r"$\rightarrow$", "·": r"$\cdot$",
    "…": r"\dots{}", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "ζ": r"$\zeta$", "≤": r"$\leq$",
    "≥": r"$\geq$", "Σ": r"$\Sigma$", "–": "--",
}  # fmt: skip
_WIRES: Mapping[WireKind, str] = {
    "flow": "ink, line width=0.9pt", "skip": "residual, line width=1.5pt", "weight": "weight, dashed, line width=0.9pt",
    "removed": "faint, dashed, line width=0.9pt", "rewired": "added, line width=2.2pt",
}  # fmt: skip
_COLOURS = {
    "ink": INK, "faint": FAINT, "residual": RESIDUAL, "added": ADDED, "weight": WEIGHT,
    "cluster": CLUSTER_FILL, "frame": CLUSTER_LINE, "plate": PLATE_FILL, "paper": PAPER, "soft": "#555555",
}  # fmt: skip
MARGIN = 8.0
_HEAD = r"""% Compiles with pdflatex; letters outside Latin-1 in your own labels need lualatex.
% To use the figure inside a paper, take the tikzpicture and the colours.
\documentclass{article}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{textcomp}
\usepackage{tikz}
\usetikzlibrary{arrows.meta}
\renewcommand{\familydefault}{\sfdefault}"""

_TAIL = r"""% One page of just this size.
\ifdefined\pagewidth\let\pdfpagewidth\pagewidth\let\pdfpageheight\pageheight\fi
\pdfpagewidth=\wd0 \pdfpageheight=\ht0 \hoffset=-1in \voffset=-1in
\shipout\box0
\end{document}
"""


def escaped(text: str) -> str:
    """Text as LaTeX prints it, whatever a user's label holds."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def tikz(scene: Scene) -> str:
    """The whole document."""
    lines = [_HEAD, *(f"% {escaped(note)}" for note in scene.notes)]
    looks = {box.kind: LOOKS[box.kind] for box in scene.boxes}
    colours = _COLOURS | {f"{kind}fill": look.fill for kind, look in looks.items()}
    colours |= {f"{kind}line": look.line for kind, look in looks.items()}
    lines += [rf"\definecolor{{{name}}}{{HTML}}{{{colour[1:]}}}" for name, colour in colours.items()]
    left, bottom, right, top = (at + way * MARGIN for at, way in zip(scene.area, (-1, -1, 1, 1), strict=True))
    lines += [
        r"\begin{document}", r"\setbox0=\hbox{\sffamily",
        r"\begin{tikzpicture}[x=1bp, y=1bp, >={Stealth[length=6pt, width=4.5pt]}, inner sep=0pt]",
        rf"  \useasboundingbox {_at((left, bottom))} rectangle {_at((right, top))};",
    ]  # fmt: skip
    for part in (_plates(scene), _wires(scene), _boxes(scene), _texts(scene)):
        lines += [f"  {line}" for line in part]
    return "\n".join([*lines, r"\end{tikzpicture}}", _TAIL])


def _plates(scene: Scene) -> Iterator[str]:
    for plate in sorted(scene.plates, key=lambda plate: _depth(scene, plate)):
        for copy in range(2 if plate.repeat else 0, -1, -1):
            shift = copy * SHADOW_STEP
            low, high = (plate.left + shift, plate.bottom - shift), (plate.right + shift, plate.top - shift)
            pen = {"removed": "faint, dashed", "added": "added, line width=2pt"}.get(plate.status, "frame")
            fill = "plate" if plate.repeat else "cluster"
            yield rf"\draw[{pen}, fill={fill}, rounded corners=10pt] {_at(low)} rectangle {_at(high)};"


def _depth(scene: Scene, plate: Plate) -> int:
    parents = {p.slot: p.parent for p in scene.plates}
    depth, slot = 0, plate.parent
    while slot:
        depth, slot = depth + 1, parents[slot]
    return depth


def _wires(scene: Scene) -> Iterator[str]:
    for wire in sorted(scene.wires, key=lambda wire: BEHIND.get(wire.kind, 2)):
        yield rf"\draw[->, {_WIRES[wire.kind]}] {_path(wire, scene)};"
    for point in scene.dots:
        yield rf"\fill[residual] {_at(point)} circle[radius=1.6pt];"


def _path(wire: Wire, scene: Scene) -> str:
    """The bends, rounded except where the value forks."""
    parts = [_at(wire.points[0])]
    for point in wire.points[1:]:
        corner = "sharp corners" if point in scene.dots else "rounded corners=4pt"
        parts.append(f"[{corner}] -- {_at(point)}")
    return " ".join(parts)


def _boxes(scene: Scene) -> Iterator[str]:
    for box in scene.boxes:
        if box.shape != "text":
            fill = "paper" if box.status == "removed" else _tint(box.tint) or f"{box.kind}fill"
            for outline in _outlines(box):
                yield rf"\draw[{_pen(box)}, fill={fill}] {outline};"
        if not box.sub:
            colour = "faint" if box.status == "removed" else "ink"
            yield rf"\node at {_at((box.x, box.y))} {{{_text(box.label, LABEL, colour)}}};"


def _tint(colour: str) -> str:
    """A colour of a box's own, in the words of xcolor."""
    parts = zip(("red", "green", "blue"), (1, 3, 5), strict=True)
    return f"{{rgb,255:{';'.join(f'{name},{int(colour[i : i + 2], 16)}' for name, i in parts)}}}" if colour else ""


def _pen(box: Box) -> str:
    if box.status == "removed":
        return "faint, dashed"
    if box.status in ("added", "changed"):
        return f"added, line width={'2.2' if box.status == 'added' else '1.6'}pt"
    return f"{box.kind}line, line width={'1.4' if box.shape == 'circle' else '1'}pt"


def _outlines(box: Box) -> Iterator[str]:
    """Paths of a box's shape, outermost first."""
    half = (box.width / 2, box.height / 2)
    low, high = (box.x - half[0], box.y - half[1]), (box.x + half[0], box.y + half[1])
    if box.shape in ("circle", "ellipse"):
        yield f"{_at((box.x, box.y))} ellipse[x radius={half[0]:.2f}bp, y radius={half[1]:.2f}bp]"
        return
    if box.shape == "rounded":
        yield f"[rounded corners=7pt] {_at(low)} rectangle {_at(high)}"
        return
    yield " -- ".join(_at((box.x + x, box.y + y)) for x, y in corners(box.shape, box.width, box.height)) + " -- cycle"
    if box.shape == "double":
        yield f"{_at((low[0] + 4, low[1] + 4))} rectangle {_at((high[0] - 4, high[1] - 4))}"
    if box.shape == "diagonals":
        for x, y in ((low[0], low[1]), (low[0], high[1]), (high[0], low[1]), (high[0], high[1])):
            inward = (6 if x == low[0] else -6, 6 if y == low[1] else -6)
            yield f"{_at((x + inward[0], y))} -- {_at((x, y + inward[1]))}"
    if box.shape == "cylinder":
        yield f"{_at((low[0], high[1] - 2))} .. controls +(12,-3) and +(-12,-3) .. {_at((high[0], high[1] - 2))}"
    if box.shape == "box3d":
        yield f"{_at(low)} rectangle {_at((high[0] - 3, high[1] - 3))}"


def _texts(scene: Scene) -> Iterator[str]:
    for words in [*scene.words, *(line for box in scene.boxes if box.sub for line in two_lines(box))]:
        anchor = {"left": "west", "middle": "center", "right": "east"}[words.anchor]
        colour = next((name for name, value in _COLOURS.items() if value == words.colour), "ink")
        shown = _text(words.text, words.size, colour, words.bold)
        yield rf"\node[anchor={anchor}] at {_at((words.x, words.y))} {{{shown}}};"


def _text(text: str, size: float, colour: str, bold: bool = False) -> str:
    weight = r"\bfseries" if bold else ""
    return rf"\fontsize{{{size:g}}}{{{size * 1.2:g}}}\selectfont\color{{{colour}}}{weight} {escaped(text)}"


def _at(point: Point) -> str:
    return f"({point[0]:.2f},{point[1]:.2f})"

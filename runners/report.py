"""`blockgraph report`: the directory of a study to tables and figures, as HTML, Markdown and LaTeX."""

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import LEFTOVER, write
from runners import study

if TYPE_CHECKING:
    from runners.lab.plots import Figure

DESCRIPTION = """Make the tables and figures of a study: which block is stable up to which learning rate, at which
perplexity, why, and what a larger model will do. A study that is still running is reported as far as it is."""
EXAMPLE = """example:
  blockgraph report runs/table3-proxy
  blockgraph report runs/table3-proxy -o docs/results/table3-proxy

writes index.html (everything in one page, readable offline), report.md, report.tex, and figures/ with an SVG and a PDF
of each figure. The same study gives the same bytes.

exit status: 0 success, 1 the input is at fault, 2 wrong usage"""
TEXTS = ("index.html", "report.md", "report.tex")
FIGURES, MADE = "figures", re.compile(r"[a-z0-9-]+-[0-9a-f]{10}\.(svg|pdf)")


def command(argv: list[str]) -> int:
    """Make the tables and figures of a study.

    Returns the exit code.
    """
    options = _parser().parse_args(argv)
    try:
        found = study.read(options.study)
        for path in made(found, options):
            print(f"wrote {path}")
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph report",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="DIR", type=Path, help="the directory of a study")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help="the folder to write (default DIR/report)")
    parser.add_argument(
        "--margin", metavar="NATS", type=_nats, default=0.5,
        help="where the study's rule does not judge final losses: a run diverged whose final validation loss lies "
        "so far above the lowest at a lower learning rate, everything else equal (default 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", metavar="N", type=_layer, default=1,
        help="whose norms the figures show, counted from 0; of fewer layers the first (default 1, as in the paper)",
    )  # fmt: skip
    add_ops(parser)
    return parser


def _nats(word: str) -> float:
    try:
        nats = float(word)
    except ValueError:
        nats = -1.0
    if not 0 <= nats < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of nats, 0 or more, found '{word}'")
    return nats


def _layer(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"expected the number of a layer, 0 or more, found '{word}'")
    return int(word)


def made(found: study.Study, options: argparse.Namespace) -> list[Path]:
    """The files of the report, written; the ones of a killed attempt never take the place of those before it.

    Figures are named by their content and written first, so that each text, old or new, finds all of its own.
    """
    # Only now, because matplotlib takes a second: a mistake is told before.
    from runners.lab.lab import Lab
    from runners.lab.report import report
    from runners.lab.trials import trials
    from runners.lab.writers.latex import latex
    from runners.lab.writers.markdown import markdown
    from runners.lab.writers.page import html

    done = report(Lab(found, trials(found, own_ops(options.ops)), options.margin, options.layer))
    out = options.output or found.directory / "report"
    _folder(out / FIGURES)
    drawn = {place(figure, kind): data for section in done.sections for figure in section.figures
             for kind, data in (("svg", figure.svg.encode()), ("pdf", figure.pdf))}  # fmt: skip
    for name, data in drawn.items():
        if not (out / name).exists():
            write(out / name, data)
    texts = zip(TEXTS, (html(done), markdown(done, place), latex(done, place)), strict=True)
    written = [write(out / name, text) for name, text in texts]
    _tidy(out, {Path(name).name for name in drawn})
    return written


def place(figure: "Figure", kind: str) -> str:
    """Path of a figure's file in the folder of the report, which its content decides."""
    digest = hashlib.sha256(figure.svg.encode() + figure.pdf).hexdigest()[:10]
    return f"{FIGURES}/{figure.name}-{digest}.{kind}"


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make the folder: {error.strerror}"
        raise SpecError([Problem(message, Place(str(path), 0), "name another with -o")]) from None


def _tidy(out: Path, kept: set[str]) -> None:
    """Remove the figures of earlier reports, and what a kill left of one."""
    old = [path for path in (out / FIGURES).iterdir() if MADE.fullmatch(path.name) and path.name not in kept]
    for path in (
        *old,
        *(out / FIGURES).glob(LEFTOVER),
        *(left for name in TEXTS for left in out.glob(f".{name}.*.tmp")),
    ):
        path.unlink()

"""Graphviz as the renderer of pinned DOT: the wheel's libraries in a child process, or the system's `neato`."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.figure.graphviz_child import MISSING, SECONDS

Format = Literal["svg", "pdf", "png"]
CHILD = Path(__file__).with_name("graphviz_child.py")
DPI = 192  # of PNG: sharp on a doubled screen, and in print at half the width
LIMIT = 2 * SECONDS  # of wall time; the child limits its own processor time
INSTALL = "`pip install pygraphviz` brings it, or install Graphviz; .dot, .mmd and .tex need neither"
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><cachedir prefix="xdg">fontconfig</cachedir>
<match><edit name="family" mode="assign"><string>DejaVu Sans</string></edit></match></fontconfig>
"""


def draw(dot: str, form: Format, path: str = "figure") -> bytes:
    """The drawing; raises `SpecError` when there is no engine, or it takes too long or fails."""
    if form == "png":
        dot = dot.replace("graph [", f'graph [dpi="{DPI}", ', 1)
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(Path(folder))
        done = _run([sys.executable, "-I", str(CHILD), form], dot, environment, path)
        if done.returncode == MISSING:
            neato = shutil.which("neato")
            if neato is None:
                raise _error(path, f"drawing {form} needs Graphviz, which is not here", INSTALL)
            done = _run([neato, "-n2", f"-T{form}"], dot, environment, path)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _error(path, f"Graphviz failed: {said[-1] if said else f'exit status {done.returncode}'}")
    return _undated(done.stdout) if form == "pdf" else done.stdout


def _run(command: list[str], dot: str, environment: dict[str, str], path: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(
            command, input=dot.encode(), capture_output=True, timeout=LIMIT, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise _error(
            path, f"Graphviz took more than {LIMIT} s", "a .dot, .mmd or .tex file needs no Graphviz"
        ) from None


def _environment(folder: Path) -> dict[str, str]:
    """The environment with the fonts that matplotlib bundles as the only ones, so that machines draw alike."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return dict(os.environ)
    fonts = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    config = folder / "fonts.conf"
    config.write_text(FONTS.format(folder=fonts))
    return {**os.environ, "FONTCONFIG_FILE": str(config)}


def _undated(pdf: bytes) -> bytes:
    """The PDF with a constant date of creation, of the same length because the file counts its bytes."""
    return re.sub(rb"/CreationDate \(D:[^)]*\)", lambda m: re.sub(rb"\d", b"0", m.group()), pdf)


def _error(path: str, message: str, hint: str = "") -> SpecError:
    return SpecError([Problem(message, Place(path, 0), hint)])

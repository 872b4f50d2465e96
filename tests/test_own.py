"""Ops in a file of the user's own: what each mistake in it is told as."""

from pathlib import Path

import pytest

from blockgraph.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "ops.md"
OPS = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
SPEC = """\
block: mine
dims: {d_model: 8}
inputs: {x: [batch, seq, d_model]}
nodes:
  act: {op: quick_gelu, in: x}
outputs: {x: act}
"""
LOWER = OPS.splitlines()[-1].strip()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SPEC)


def compiled(ops):
    Path("own.py").write_text(ops)
    return main(["compile", "mine.yaml", "--ops", "own.py", "-o", "out.py"])


def test_an_op_needs_no_example(capsys):
    assert compiled(OPS) == 0
    capsys.readouterr()
    assert main(["ops", "quick_gelu", "--ops", "own.py"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "quick_gelu"


MISTAKES = {
    "syntax": (
        "(Pointwise):", "(Pointwise)",
        "own.py:8:27: error: not Python: expected ':'",
    ),
    "import": (
        "import Pointwise,", "import Pointwis,",
        "own.py:5:1: error: ImportError: cannot import name 'Pointwis' from 'blockgraph.op'",
    ),
    "no style": (
        '    style: ClassVar = Style("activation", "Quick GELU")\n', "",
        "own.py:8:1: error: QuickGelu: `style`, as in Style('activation', 'Quick GELU'), is missing",
    ),
    "role": (
        '"activation"', '"activatoin"',
        "own.py:8:1: error: QuickGelu: style: 'activatoin' is no role of figures; known are norm, linear,",
    ),
    "no lower": (
        "def lower", "def lowwer",
        "own.py:8:1: error: QuickGelu: `lower`, which gives its text in torch, is missing",
    ),
    "unknown name": (
        LOWER, "return y",
        "own.py:15:16: error: in `lower`, NameError: name 'y' is not defined",
    ),
    "infer": (
        "    def lower", "    def infer(self, x):\n        return x.size\n\n    def lower",
        "own.py:15:16: error: in `infer`, AttributeError: 'Type' object has no attribute 'size'",
    ),
    "arguments": (
        "site: Site, x: str", "site: Site",
        "mine.yaml:5:3: error: act (quick_gelu): `lower` cannot be called: QuickGelu.lower() takes 2 positional",
    ),
    "nothing": (
        LOWER, 'f"{x} * 2"',
        "mine.yaml:5:3: error: act (quick_gelu): `lower` gives None, which is no text; it returns the text of an",
    ),
    "no expression": (
        LOWER, 'return f"{x} +* 2"',
        "mine.yaml:5:3: error: act (quick_gelu): `lower` gives 'x +* 2', which is no expression of Python; it returns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_its_line_and_nothing_is_written(mistake, capsys):
    before, after, told = MISTAKES[mistake]
    assert before in OPS
    assert compiled(OPS.replace(before, after)) == 1
    assert capsys.readouterr().err.startswith(told)
    assert not Path("out.py").exists()

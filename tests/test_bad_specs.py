"""Every bad spec under `bad/` beside the exact text that it gets."""

from pathlib import Path

import pytest

from blockgraph.cli import main
from blockgraph.errors import SpecError
from blockgraph.load import load

BAD = Path(__file__).parent / "bad"
NAMES = sorted(path.stem for path in BAD.glob("*.txt"))
HELPERS = {"open_block"}  # valid, and held by a bad one


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(BAD)


@pytest.mark.parametrize("name", NAMES)
def test_bad_spec_gets_exactly_its_text(name, capsys):
    assert main(["check", f"./{name}.yaml"]) == 1
    told = capsys.readouterr()
    assert told.err == (BAD / f"{name}.txt").read_text(encoding="utf-8")
    assert told.out == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_stands_at_a_place_inside_its_file(name):
    with pytest.raises(SpecError) as caught:
        load(f"./{name}.yaml")
    for problem in caught.value.problems:
        place = problem.place
        lines = (BAD / place.file).read_bytes().decode(errors="replace").splitlines()
        assert 1 <= place.line <= len(lines)
        assert 1 <= place.column <= len(lines[place.line - 1]) + 1
        assert place.text in (lines[place.line - 1], "")  # a whole file has no line of its own


def test_every_bad_spec_has_its_text_and_there_are_many():
    specs = {path.stem for path in BAD.glob("*.yaml")} - HELPERS
    assert specs == set(NAMES)
    assert len(NAMES) >= 45


def test_messages_begin_in_lower_case_and_have_no_full_stop():
    lines = [line for name in NAMES for line in (BAD / f"{name}.txt").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        message = line.partition(": error: ")[2] or "a line of the file"
        assert not message[0].isupper() or message.startswith("not YAML"), line
        assert not message.endswith(".") or message.endswith("..."), line

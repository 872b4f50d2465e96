"""Shipped specs with one mistake in them: still valid, or told at a place in the file, with the near miss."""

import random
import re
import string

import pytest

from blockgraph.errors import SpecError
from blockgraph.library import shipped
from blockgraph.load import load

FROM_ZOO = ("gemma2", "value_residual")  # more would say no more, and cost a minute
SPECS = {name: path for name, path in shipped().items() if path.parent.name != "zoo" or name in FROM_ZOO}
TRIES = 20  # mutations of each kind and spec
HIT_RATE = 0.9  # of typos whose hint has to hold the original
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LETTERS = string.ascii_lowercase + string.digits + "_"


def typo(word, draw, edits=1):
    for _ in range(edits):
        at = draw.randrange(len(word))
        kind = draw.choice(["delete", "insert", "replace", "swap"])
        if kind == "delete" and len(word) > 1:
            word = word[:at] + word[at + 1 :]
        elif kind == "swap" and at:
            word = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
        elif kind == "replace":
            word = word[:at] + draw.choice(LETTERS) + word[at + 1 :]
        else:
            word = word[:at] + draw.choice(LETTERS) + word[at:]
    return word


def misspelt(text, draw):
    found = draw.choice(list(WORD.finditer(text)))
    return text[: found.start()] + typo(found[0], draw, draw.choice([1, 1, 2])) + text[found.end() :]


def dropped(lines, draw):
    del lines[draw.randrange(len(lines))]
    return lines


def doubled(lines, draw):
    at = draw.randrange(len(lines))
    return [*lines[: at + 1], *lines[at:]]


def moved(lines, draw):
    at = draw.randrange(len(lines))
    lines[at] = draw.choice([" " + lines[at], "  " + lines[at], "\t" + lines[at], lines[at][1:], lines[at].lstrip()])
    return lines


def exchanged(text, draw):
    one, two = sorted(draw.sample(list(WORD.finditer(text)), 2), key=re.Match.start)
    return text[: one.start()] + two[0] + text[one.end() : two.start()] + one[0] + text[two.end() :]


def by_line(change):
    return lambda text, draw: "\n".join(change(text.splitlines(), draw)) + "\n"


def struck(text, draw):
    at = draw.randrange(len(text))
    return (
        text[:at]
        + draw.choice(["", "{", "}", "[", "]", ":", ",", "#", "'", '"', "&", "*", "!", "|", "-", "\n", " ", "9"])
        + text[at + 1 :]
    )


MUTATIONS = {
    "a word misspelt": misspelt,
    "two words exchanged": exchanged,
    "a character struck": struck,
    "a line dropped": by_line(dropped),
    "a line doubled": by_line(doubled),
    "a line moved": by_line(moved),
}


@pytest.mark.parametrize("kind", MUTATIONS)
@pytest.mark.parametrize("name", SPECS)
def test_a_mutated_spec_is_valid_or_told_at_a_place_inside(name, kind, tmp_path):
    original, draw = SPECS[name].read_text(encoding="utf-8"), random.Random(f"{name} {kind}")
    path = tmp_path / f"{name}.yaml"
    for _ in range(TRIES):
        path.write_text(MUTATIONS[kind](original, draw), encoding="utf-8")
        lines = path.read_text(encoding="utf-8").splitlines()
        problems = problems_of(path)
        told = [problem.place for problem in problems if problem.place.file == str(path)]
        assert told or all(problem.place.file.endswith(".yaml") for problem in problems)
        assert all(1 <= place.line <= len(lines) + 1 and place.column <= len(place.text) + 1 for place in told)


def problems_of(path):
    try:
        load(path)
    except SpecError as error:
        return error.problems
    return ()


# Where a name is written: the op of a node, a key of a node, a name that is read, a dim in an expression.
SPOTS = {
    "op": re.compile(r"(?<=op: )(\w+)"),
    "field": re.compile(r"(?<=, )(\w+)(?=: )"),
    "node": re.compile(r"(?:(?<=in: )|(?<=in: \[)|(?<=\w, ))([\w.]{2,})(?=[,}\]])"),
    "dim": re.compile(r"(?:(?<=out: )|(?<=heads: )|(?<=\* )|(?<=sqrt\())([a-z]\w+)"),
}


def hints(path, line, column):
    """What is said of the place of a typo; None where the spec is still valid."""
    problems = problems_of(path)
    near = (p for p in problems if p.place.line == line and abs(p.place.column - column) <= 1)
    return " ".join(f"{problem.message}; {problem.hint}" for problem in near) if problems else None


@pytest.mark.parametrize("spot", SPOTS)
def test_typos_are_told_with_the_original(spot, tmp_path):
    draw, hits, missed = random.Random(spot), 0, []
    path = tmp_path / "typo.yaml"
    for name in SPECS:
        text = SPECS[name].read_text(encoding="utf-8")
        body = text.index("nodes:")
        for _ in range(TRIES):
            found = draw.choice([match for match in SPOTS[spot].finditer(text) if match.start() > body])
            wrong = typo(found[1], draw, draw.choice([1, 2]))
            if re.search(rf"\b{re.escape(wrong)}\b", text) or not WORD.fullmatch(wrong.replace(".", "")):
                continue  # another name of the spec, or none at all
            path.write_text(text[: found.start()] + wrong + text[found.end() :], encoding="utf-8")
            line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
            told = hints(path, line, column)
            if told is not None:
                hits += found[1] in told or found[1].rpartition(".")[2] in told.split("; ")[-1]
                missed += [(found[1], wrong, told)] * (found[1] not in told)
    assert hits / (hits + len(missed)) >= HIT_RATE, missed[:20]
    assert hits > 100

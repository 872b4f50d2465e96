"""Fields filled from text: what does not fit is told where it stands, in words of the author."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from blockgraph.errors import OpError, Problems, Told
from blockgraph.schema import Fields, fill, word
from blockgraph.syntax import parse


def refuse(value):
    raise Told if value == "quiet" else OpError("not this one")


class Inner(Fields):
    kind: Literal["small", "large"] = "small"
    count: int = Field(1, ge=1, le=10)


class Outer(Fields):
    name: str
    share: float = Field(0.5, gt=0, lt=1)
    inner: Inner = Inner()
    several: list[Inner] = Field([])
    table: dict[str, int] = Field({})
    either: str | list[str] = ""
    choice: Literal["auto"] | int = "auto"
    flag: bool = False
    odd: Annotated[str, Field(alias="other-name")] = ""


def told(text, kind=Outer, **options):
    problems = Problems()
    fill(kind, parse(text, "f"), problems, **options)
    return [problem.line.replace(": error", "") for problem in problems.found]


def test_text_that_fits_fills_the_fields():
    problems = Problems()
    text = (
        "{name: a, share: 0.25, inner: {kind: large}, several: [{count: 2}], table: {x: 1}, either: [p, q], choice: 3}"
    )
    found = fill(Outer, parse(text), problems)
    assert problems.found == []
    assert found.inner == Inner(kind="large")
    assert (found.several[0].count, found.either, found.choice) == (2, ["p", "q"], 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "f:1:1: 'name' is missing"),
        ("{name: a, inner: 4}", "f:1:18: inner must be a mapping, found '4'"),
        ("{name: 3}", "f:1:8: name must be a word, found '3'; in quotes it is one: '3'"),
        ("{name: [a]}", "f:1:8: name must be a word, found a list"),
        ("{name: }", "f:1:8: name must be a word, found nothing"),
        ("{name: a, flag: yes}", "f:1:17: flag must be true or false, found 'yes'"),
        ("{name: a, share: half}", "f:1:18: share must be a number, found 'half'"),
        ("{name: a, share: 1}", "f:1:18: share must be less than 1.0, found 1"),
        ("{name: a, share: .nan}", "f:1:18: share must be less than 1.0, found .nan"),
        ("{name: a, inner: {count: 0}}", "f:1:26: inner.count must be at least 1, found 0"),
        ("{name: a, inner: {count: 2.5}}", "f:1:26: inner.count must be a whole number, found '2.5'"),
        ("{name: a, several: [{kind: lage}]}", "f:1:28: several.0.kind: 'lage' is not known; did you mean 'large'?"),
        ("{name: a, inner: {kind: huge_}}", "f:1:25: inner.kind: 'huge_' is not known; known are small, large"),
        ("{name: a, inner: {knid: small}}", "f:1:19: unknown key 'knid'; did you mean 'kind'?"),
        ("{name: a, inner: {zzz: small}}", "f:1:19: unknown key 'zzz'; known are kind, count"),
        ("{name: a, table: {x: y}}", "f:1:22: table.x must be a whole number, found 'y'"),
        ("{name: a, either: 3}", "f:1:19: either must be a word or a list, found '3'"),
        ("{name: a, either: [p, 3]}", "f:1:23: either.1 must be a word, found '3'; in quotes it is one: '3'"),
        ("{name: a, choice: atuo}", "f:1:19: choice: 'atuo' is not known; did you mean 'auto'?"),
        ("{name: a, choice: [x]}", "f:1:19: choice must be auto or a whole number, found a list"),
        ("{name: a, other-nam: x}", "f:1:11: unknown key 'other-nam'; did you mean 'other-name'?"),
        ("{nmae: a}", "f:1:2: unknown key 'nmae'; did you mean 'name'?"),
    ],
)  # fmt: skip
def test_each_misfit_is_told_once_at_its_place(text, expected):
    assert told(text) == [expected]


def test_all_misfits_are_told():
    assert len(told("{name: 3, share: 2, inner: {count: 0, kindd: small}, flag: 1}")) == 5


def test_keys_that_the_caller_takes_out_are_near_misses_too():
    assert told("{name: a, titel: x}", known=["title"], about="node: ") == [
        "f:1:11: node: unknown key 'titel'; did you mean 'title'?"
    ]


def test_what_is_told_elsewhere_is_not_told_again():
    from pydantic import BeforeValidator

    class Picky(Fields):
        one: Annotated[str, BeforeValidator(refuse)] = ""
        two: Annotated[str, BeforeValidator(refuse)] = ""

    assert told("{one: quiet, two: loud}", Picky) == ["f:1:19: two: not this one"]


def test_a_word_is_a_word():
    problems = Problems()
    items = parse("{a: word, b: 3, c: '', d: [x]}", "f").items
    assert [word(value, "this", problems) for value in items.values()] == ["word", None, None, None]
    assert [problem.message for problem in problems.found] == [
        "this is a word, found '3'", "this is a word, found ''", "this is a word, found a list"
    ]  # fmt: skip

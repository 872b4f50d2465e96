"""YAML as 1.2 reads it, places that point at what was written, and nothing but `SpecError`."""

import json
import math
from contextlib import suppress

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from blockgraph.errors import Place, SpecError
from blockgraph.library import shipped
from blockgraph.syntax import MAX_BYTES, Mapping, parse, parse_value, plain, read

SPELLINGS = {
    "6e-3": 0.006, "1e5": 1e5, "1e-5": 1e-5, "3E4": 3e4, "1.5e3": 1500.0, "1.0e-5": 1e-5, "-2e2": -200.0, "+1.5": 1.5,
    ".5": 0.5, "5.": 5.0, "0": 0, "-0": 0, "12": 12, "+12": 12, "-12": -12, "010": 10, "017": 17, "0o14": 12,
    "0x1F": 31, "1_000": "1_000", "0b11": "0b11", "12:30": "12:30", "1:2": "1:2", "2024-01-01": "2024-01-01",
    "1e": "1e", "e5": "e5",
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False, "tRUE": "tRUE",
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "n": "n", "NO": "NO",
    "null": None, "Null": None, "NULL": None, "~": None, "": None, "none": "none", "None": "None",
    ".inf": math.inf, "-.inf": -math.inf, "+.INF": math.inf, "inf": "inf", "nan": "nan", "1.2.3": "1.2.3", "=": "=",
    "'6e-3'": "6e-3", '"no"': "no", "'~'": "~", '"12"': "12",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SPELLINGS.items())
def test_scalars_are_what_yaml_1_2_says(text, value):
    found = plain(parse_value(f"a: {text}"))["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_not_a_number_is_one_in_every_spelling(text):
    assert math.isnan(plain(parse_value(text)))


def test_values_know_where_they_stand():
    tree = parse("a: 1\nb:\n  - {c: word, d: [x, 'y z']}\n", "file.yaml")
    inner = tree.items["b"].items[0]
    assert tree.keys["b"] == Place("file.yaml", 2, 1, "b:", 1)
    assert inner.keys["d"] == Place("file.yaml", 3, 15, "  - {c: word, d: [x, 'y z']}", 1)
    assert inner.items["c"].place == Place("file.yaml", 3, 9, "  - {c: word, d: [x, 'y z']}", 4)
    assert inner.items["d"].items[1].place.column == 22
    assert inner.items["d"].items[1].place.width == 5


def test_places_count_characters_and_not_bytes():
    tree = parse("\ufeffé: {ü: ß}\r\nnext: 1\r\n")
    assert tree.items["é"].items["ü"].place == Place("<text>", 1, 8, "é: {ü: ß}", 1)
    assert tree.keys["next"].line == 2


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_shipped_specs_read_as_any_yaml_parser_reads_them(path):
    # They avoid everything in which YAML 1.1 and 1.2 differ.
    assert plain(read(path)) == yaml.safe_load(path.read_text(encoding="utf-8"))


FORBIDDEN = "\ufeff\ufffe\uffff"
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters=FORBIDDEN))
KEYS = PRINTABLE.filter(lambda key: key != "<<")
NUMBERS = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_is_yaml_and_reads_as_what_it_is(data):
    assert plain(parse_value(json.dumps(data, ensure_ascii=False))) == data


WORDS = "a b : { } [ ] ' \" *x @ ` \\ | > 0x 1e9 ~ é 😀 \0 \ud800"
SPACED = [
    ": ",
    "\n",
    "  ",
    "\t",
    "- ",
    ", ",
    "&x ",
    "!t ",
    "<<: ",
    "# ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "? ",
    "\u2028",
]
MARKS = [*WORDS.split(), *SPACED]


@given(st.lists(st.sampled_from(MARKS)).map("".join) | st.text())
@example("[" * 100)
@example("- " * 100)
@example("? " * 100)
def test_random_text_raises_nothing_but_spec_errors(text):
    try:
        value, problems = parse(text), ()
    except SpecError as error:
        value, problems = Mapping({}, {}, Place("")), error.problems
    lines = text.removeprefix("\ufeff").splitlines() or [""]
    assert isinstance(value, Mapping)
    assert all(1 <= problem.place.line <= len(lines) + 1 for problem in problems)


@given(st.binary())
def test_random_bytes_raise_nothing_but_spec_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(data)
    with suppress(SpecError):
        read(path)


def test_all_faults_of_a_text_are_told_at_once():
    with pytest.raises(SpecError) as caught:
        parse("a: &x 1\na: 2\nb: !t 3\n<<: {}\n[c]: 4\n", "f")
    assert [problem.place.line for problem in caught.value.problems] == [1, 2, 3, 4, 5]


def test_a_size_limit_holds_for_text_and_for_files(tmp_path):
    (tmp_path / "long.yaml").write_text("#" * (MAX_BYTES + 1))
    for attempt in (lambda: read(tmp_path / "long.yaml"), lambda: parse("#" * (MAX_BYTES + 1))):
        with pytest.raises(SpecError, match="1,000,000"):
            attempt()


def test_a_long_line_is_cut_round_the_fault():
    with pytest.raises(SpecError) as caught:
        parse("a: [" + "x, " * 500 + "!t y, " + "x, " * 500 + "]")
    first, line, caret = str(caught.value).splitlines()
    assert first.startswith("<text>:1:1505: error: tags")
    assert len(line) < 180
    assert line[caret.index("^") :].startswith("!t")

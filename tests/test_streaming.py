"""Laws of the hub: a data set is streamed once, a kill costs one part, and the rest is as for any source."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_case import CONFIG, ROOT, decoded, opened, texts, write, write_jsonl
from hub_case import HUB, TOKENS, Hub, error, hub_data, install, prepared, source_of

from blockgraph.errors import SpecError
from runners import streaming
from runners.cache import verify
from runners.corpus import DataConfig, Source, Texts
from runners.documents import Document, key_bound
from runners.shards import Dataset
from runners.tokenizer import Tokenizer, TokenizerConfig, load
from runners.tokenizer import prepare as prepare_tokenizer

TEXTS = texts(400)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with more text than is asked for, taken in by parts of about twenty documents."""
    monkeypatch.setattr(streaming, "PART_CHARACTERS", 4000)
    return install(monkeypatch, TEXTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tokenizer of such texts."""
    folder = tmp_path_factory.mktemp("model")
    data = DataConfig(train=[write_jsonl(folder / "a.jsonl", texts(200, seed=1))])
    tokenizer = prepare_tokenizer(CONFIG, data, folder / "cache", folder)
    return write(folder / "some.model", tokenizer.model_bytes)


def sides(dataset: Dataset, model: Path) -> tuple[list[str], list[str]]:
    tokenizer = load(model)
    return decoded(dataset.train, tokenizer), decoded(dataset.validation, tokenizer)


def test_a_data_set_gives_its_first_documents_until_there_are_enough_tokens(
    tmp_path: Path, model: Path, hub: Hub
) -> None:
    dataset = prepared(tmp_path, model)
    train, held = sides(dataset, model)
    bound, tokenizer = key_bound(0.05), load(model)
    low = [Document("", text).key < bound for text in TEXTS]
    assert held == [text for text, is_held in zip(TEXTS, low, strict=True) if is_held][: len(held)]
    assert train == [text for text, is_held in zip(TEXTS, low, strict=True) if not is_held][: len(train)]
    assert 0 < len(held) < 0.2 * len(train)
    sizes = [len(tokenizer.encode(text)) + 1 for text in train]
    assert sum(sizes[:-1]) < TOKENS <= sum(sizes) == dataset.tokens
    assert hub.asked == [(HUB, "en", "train", None)]


def test_a_data_set_is_streamed_once_whatever_its_weight_and_the_length_of_sequences(
    tmp_path: Path, model: Path, hub: Hub
) -> None:
    first = prepared(tmp_path, model)
    again = prepared(tmp_path, model, hub_data(source_of(weight=3.0, split="train"), seq=32))
    assert (again.digest, again.tokens, again.bytes_per_token) == (first.digest, first.tokens, first.bytes_per_token)
    assert len(hub.asked) == 1
    prepared(tmp_path, model, hub_data(source_of(revision="abc", split="train")))
    assert hub.asked[1:] == [(HUB, "en", "train", "abc")]


def test_nothing_but_the_shards_is_left_in_the_cache(tmp_path: Path, model: Path, hub: Hub) -> None:
    prepared(tmp_path, model)
    (folder,) = (tmp_path / "cache" / "shards").iterdir()
    manifest = verify(folder, deep=True)
    assert [len(manifest.train), len(manifest.validation), manifest.after] == [1, 1, None]
    assert len(manifest.train[0].shards) > 8
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "tokenizer.model"} | {
        shard.file for part in (*manifest.train, *manifest.validation) for shard in part.shards
    }


def test_a_network_that_fails_half_way_costs_one_part(tmp_path: Path, model: Path, hub: Hub) -> None:
    whole = prepared(tmp_path / "whole", model)
    rows, hub.read[:] = list(hub.read), []

    def fail(number: int) -> None:
        hub.read.append(number)
        if number == 100:
            raise ConnectionError("Couldn't reach the Hub\nTraceback")

    hub.on_row = fail
    told = (
        "cannot be streamed: Couldn't reach the Hub; `blockgraph data --hub` fills the cache where there is a network"
    )
    assert error(tmp_path, model) == f"allenai/c4/en:1:1: error: {told}"
    assert not list((tmp_path / "cache" / "shards").glob("[!.]*"))
    hub.on_row = hub.read.append
    dataset = prepared(tmp_path, model)
    assert dataset.digest == whole.digest
    assert torch.equal(dataset.train.shuffled(1).batch(0, 99), whole.train.shuffled(1).batch(0, 99))
    assert len(rows) < len(hub.read) < len(rows) + 30


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import pytest
from hub_case import install
from test_streaming import TEXTS, prepared, streaming
streaming.PART_CHARACTERS = 4000
hub = install(pytest.MonkeyPatch(), TEXTS)
hub.on_row = lambda number: number == 150 and os.kill(os.getpid(), signal.SIGKILL)
prepared(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_kill_costs_one_part_and_changes_nothing(tmp_path: Path, model: Path, hub: Hub) -> None:
    whole = prepared(tmp_path / "whole", model)
    rows, hub.read[:] = len(hub.read), []
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), str(model)]
    assert subprocess.run(arguments, env=os.environ | {"PYTHONPATH": ROOT}).returncode == -signal.SIGKILL
    assert prepared(tmp_path, model).digest == whole.digest
    assert rows - 150 <= len(hub.read) < rows - 100
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 1


def test_a_part_that_was_damaged_is_streamed_again(tmp_path: Path, model: Path, hub: Hub) -> None:
    whole = prepared(tmp_path / "whole", model)

    def fail(number: int) -> None:
        hub.read.append(number)
        if number == 150:
            raise TimeoutError

    hub.on_row = fail
    assert error(tmp_path, model) == "allenai/c4/en:1:1: error: cannot be streamed: TimeoutError"
    part = next((tmp_path / "cache" / "shards").glob(".*.parts/00002"))
    next(part.glob("train-*.bin")).write_bytes(b"")
    hub.on_row = hub.read.append
    assert prepared(tmp_path, model).digest == whole.digest


def test_damaged_shards_are_streamed_again(tmp_path: Path, model: Path, hub: Hub) -> None:
    first = prepared(tmp_path, model)
    shard = next(tmp_path.rglob("train-0-00003-*.bin"))
    shard.write_bytes(shard.read_bytes()[:-2])
    assert prepared(tmp_path, model).digest == first.digest
    assert len(hub.asked) == 2


def test_a_data_set_that_ends_early_is_taken_whole(tmp_path: Path, model: Path, hub: Hub) -> None:
    train, held = sides(prepared(tmp_path, model, hub_data(source_of(tokens=10**12))), model)
    assert sorted(train + held) == sorted(TEXTS)


def test_a_data_set_without_text_is_refused(tmp_path: Path, model: Path, hub: Hub) -> None:
    hub.splits["train"] = [{"text": ""}]
    assert error(tmp_path, model) == "allenai/c4/en:1:1: error: there is no text in it"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"body": "a"}, "no field 'text'; there are body"),
        ({"text": None}, "field 'text' is not text"),
    ],
)
def test_a_row_without_text_is_told_by_its_number(
    tmp_path: Path, model: Path, hub: Hub, row: dict[str, object], message: str
) -> None:
    hub.splits["train"][76] = row
    assert error(tmp_path, model) == f"allenai/c4/en:77:1: error: {message}"
    assert error(tmp_path, model) == f"allenai/c4/en:77:1: error: {message}"


def test_what_the_library_refuses_is_one_line(tmp_path: Path, model: Path, hub: Hub) -> None:
    told = "cannot be streamed: Bad split: dev. Available splits: ['train']"
    assert error(tmp_path, model, hub_data(source_of(split="dev"))) == f"allenai/c4/en:1:1: error: {told}"


def test_a_missing_library_says_how_to_install_it(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = 'reading it needs datasets; pip install "blockgraph[hub]"'
    assert error(tmp_path, model) == f"allenai/c4/en:1:1: error: {told}"


def test_a_kept_data_set_needs_neither_library_nor_network(
    tmp_path: Path, model: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(tmp_path, model)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert prepared(tmp_path, model).digest == first.digest


def test_another_split_validates_and_nothing_is_held_out_then(tmp_path: Path, model: Path, hub: Hub) -> None:
    held = texts(30, seed=7)
    hub.splits["validation"] = [{"text": text} for text in held]
    data = hub_data(validation=[source_of(split="validation", tokens=10**9)])
    train, validation = sides(prepared(tmp_path, model, data), model)
    assert train == TEXTS[: len(train)]
    assert validation == held


def test_a_data_set_mixes_with_text(tmp_path: Path, model: Path, hub: Hub) -> None:
    own = texts(60, seed=8)
    data = hub_data(source_of(weight=3.0), write_jsonl(tmp_path / "own.jsonl", own))
    dataset = prepared(tmp_path, model, data)
    alone = prepared(tmp_path, model)
    assert [seen.source for seen in dataset.train.seen(0)] == ["allenai/c4/en", "own.jsonl"]
    assert [seen.sequences for seen in dataset.train.shuffled(0).seen(4096)] == [3072, 1024]
    assert dataset.train.sources[0].parts == alone.train.sources[0].parts
    assert len(hub.asked) == 1


def test_a_tokenizer_learns_from_the_first_rows_alone(tmp_path: Path, hub: Hub) -> None:
    data = hub_data(source_of(tokens=5000))
    learnt = "".join(document.text for document in Texts(data, tmp_path).streamed(data.train[0], 5000))
    assert 4000 < len(learnt) < 5300
    plain = prepare_tokenizer(CONFIG, data, tmp_path / "one", tmp_path)
    hub.splits["train"] += [{"text": "Zyzzyva " * 1000}]
    assert prepare_tokenizer(CONFIG, data, tmp_path / "two", tmp_path).digest == plain.digest
    dataset, tokenizer = opened(tmp_path, data)
    assert tokenizer.digest == plain.digest
    assert 5000 <= dataset.tokens < 5300


def test_a_tokenizer_never_learns_from_held_out_rows(tmp_path: Path, hub: Hub) -> None:
    data = hub_data(source_of(tokens=10**6))
    plain = prepare_tokenizer(CONFIG, data, tmp_path / "one", tmp_path)
    hub.splits["train"] = [{"text": text} for text in TEXTS if Document("", text).key >= key_bound(0.05)]
    assert len(hub.splits["train"]) < len(TEXTS)
    assert prepare_tokenizer(CONFIG, data, tmp_path / "two", tmp_path).digest == plain.digest


def test_too_many_pieces_are_told_at_the_data_set(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(
        SpecError, match=r"^allenai/c4/en:1:1: error: 4096 pieces are more than the training text gives"
    ):
        prepare_tokenizer(TokenizerConfig(), hub_data(source_of(tokens=3000)), tmp_path / "cache", tmp_path)


def test_a_separator_parts_the_rows(tmp_path: Path, model: Path, hub: Hub) -> None:
    data = hub_data(source_of(separator="\r\n\n", tokens=10**9))
    train, held = sides(prepared(tmp_path, model, data), model)
    assert sorted(train + held) == sorted(piece for text in TEXTS for piece in text.split("\r\n\n"))


def test_the_library_itself_streams_in_the_same_way(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr(streaming, "PART_CHARACTERS", 4000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for number in range(4):
        write_jsonl(tmp_path / "c4" / f"train-{number}.jsonl", TEXTS[number * 100 : number * 100 + 100])
    data = hub_data(Source(hub="c4", tokens=TOKENS))
    real = prepared(tmp_path, model, data)
    taken = Tokenizer.encode_documents
    calls: list[int] = []

    def fail(self: Tokenizer, documents: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return taken(self, documents)  # type: ignore[arg-type]

    monkeypatch.setattr(Tokenizer, "encode_documents", fail)
    with pytest.raises(MemoryError):
        prepared(tmp_path / "again", model, data)
    assert prepared(tmp_path / "again", model, data).digest == real.digest
    install(monkeypatch, TEXTS)
    assert prepared(tmp_path / "stand-in", model, data).digest == real.digest

"""Laws of the shards: whole or absent, and an order that a seed and an index decide."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockgraph.errors import SpecError
from runners import cache, shards
from runners.cache import MANIFEST, verify
from runners.corpus import DataConfig, Source, Texts
from runners.shards import Dataset, Samples, Windows, permuted, prepare, write
from runners.tokenizer import MODEL, Tokenizer, TokenizerConfig
from runners.tokenizer import prepare as prepare_tokenizer

SEQ = 16
CONFIG = TokenizerConfig(vocab=300)


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of made-up words, each of its own, with all that tends to get lost."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshr", k=draw.randint(2, 6))) for _ in range(60)]
    return [
        f"Number {number}:\r\n\n" + " ".join(draw.choices(words, k=40)) + " café 😀\u2581\n" for number in range(count)
    ]


def write_jsonl(path: Path, documents: list[str]) -> Source:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return Source(path=path.name)


def data_of(folder: Path, count: int = 200, **keys: object) -> DataConfig:
    return DataConfig.model_validate({"train": [write_jsonl(folder / "texts.jsonl", texts(count))], "seq": SEQ} | keys)


def opened(folder: Path, data: DataConfig, config: TokenizerConfig = CONFIG) -> tuple[Dataset, Tokenizer]:
    tokenizer = prepare_tokenizer(config, data, folder / "cache", folder)
    return prepare(data, tokenizer, folder / "cache", folder), tokenizer


def decoded(samples: Samples, tokenizer: Tokenizer) -> list[str]:
    """The documents that a set of samples is made of."""
    ids = np.concatenate([shard for windows in samples.sources for shard in windows.shards])
    ends = np.flatnonzero(ids == tokenizer.end)
    return [tokenizer.decode(part[:-1].tolist()) for part in np.split(ids, ends + 1)[:-1]]


def toy(*lengths: int, seq: int = 1, weights: tuple[float, ...] = ()) -> Samples:
    """Sources of single-token sequences whose targets count up, from 1000 times the source's number on."""
    arrays = [np.arange(length + 1, dtype=np.uint32) + 1000 * at - 1 for at, length in enumerate(lengths, 1)]
    sources = tuple(Windows([], (array,), seq) for array in arrays)
    return Samples(sources, weights or (1.0,) * len(lengths))


def drawn(samples: Samples, first: int, count: int) -> list[int]:
    return samples.batch(first, count)[:, -1].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and, in its cache, a tokenizer and shards of it."""
    folder = tmp_path_factory.mktemp("texts")
    opened(folder, data_of(folder))
    return folder


def test_every_document_comes_back_from_the_shards_exactly(folder: Path) -> None:
    data = data_of(folder)
    dataset, tokenizer = opened(folder, data)
    found = Texts(data, folder)
    assert decoded(dataset.train, tokenizer) == [document.text for document in found.training(data.train[0])]
    assert decoded(dataset.validation, tokenizer) == [document.text for document in found.held_out(0)]


def test_training_and_held_out_documents_have_no_text_in_common(folder: Path) -> None:
    dataset, tokenizer = opened(folder, data_of(folder))
    train, held = decoded(dataset.train, tokenizer), decoded(dataset.validation, tokenizer)
    assert sorted(train + held) == sorted(texts(200))
    assert held


def test_the_figures_of_a_dataset_are_those_of_its_text(folder: Path) -> None:
    dataset, tokenizer = opened(folder, data_of(folder))
    train, held = decoded(dataset.train, tokenizer), decoded(dataset.validation, tokenizer)
    assert dataset.tokens == sum(len(tokenizer.encode(text)) + 1 for text in train)
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in held)
    assert dataset.bytes_per_token == sum(len(text.encode()) for text in held) / tokens


def test_a_batch_is_int64_and_holds_one_token_more_than_seq(folder: Path) -> None:
    dataset, _ = opened(folder, data_of(folder))
    batch = dataset.train.shuffled(0).batch(3, 5)
    assert (batch.dtype, tuple(batch.shape)) == (torch.int64, (5, SEQ + 1))


def test_sequences_in_order_are_the_text_with_one_token_shared(folder: Path) -> None:
    dataset, _ = opened(folder, data_of(folder))
    batch = dataset.validation.batch(0, len(dataset.validation))
    stream = torch.cat([batch[0, :1], batch[:, 1:].flatten()])
    whole = dataset.validation.sources[0].shards[0]
    assert stream.tolist() == whole[: len(stream)].tolist()
    assert len(whole) - len(stream) < SEQ


def test_beyond_the_end_of_what_is_not_shuffled_is_an_error() -> None:
    with pytest.raises(IndexError, match="there is no sequence 5 in 5"):
        toy(2, 3).batch(4, 2)


def test_no_sequence_crosses_from_one_shard_file_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_TOKENS", 500)
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 300)
    data = data_of(tmp_path)
    dataset, tokenizer = opened(tmp_path, data)
    (windows,) = dataset.train.sources
    assert len(windows.shards) > 20
    assert len(windows) == sum((len(shard) - 1) // SEQ for shard in windows.shards)
    every = [
        row.tolist() for shard in windows.shards for row in Samples((Windows([], (shard,), SEQ),), (1,)).batch(0, 9)
    ]
    assert dataset.train.batch(0, len(windows)).tolist()[:9] == every[:9]
    assert decoded(dataset.train, tokenizer) == [text.text for text in Texts(data, tmp_path).training(data.train[0])]


@pytest.mark.parametrize(("vocab", "dtype"), [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_two_bytes_hold_every_id_of_a_small_vocabulary(vocab: int, dtype: str) -> None:
    assert shards._dtype(SimpleNamespace(vocab=vocab)) == dtype  # type: ignore[arg-type]
    assert np.iinfo(dtype).max >= vocab - 1


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(tmp_path)
    tokenizer = prepare_tokenizer(CONFIG, data, tmp_path / "cache", tmp_path)
    monkeypatch.setattr(shards, "_dtype", lambda tokenizer: "<u4")
    assert verify(write(Texts(data, tmp_path), tokenizer, tmp_path / "out")).dtype == "<u4"
    dataset = prepare(data, tokenizer, tmp_path / "cache", tmp_path)
    assert decoded(dataset.validation, tokenizer) == [found.text for found in Texts(data, tmp_path).held_out(0)]


@given(st.integers(1, 300), st.integers())
def test_a_shuffle_is_a_permutation(size: int, seed: int) -> None:
    assert sorted(permuted(index, size, (seed,)) for index in range(size)) == list(range(size))


def test_a_shuffle_favours_no_order() -> None:
    orders = Counter(tuple(permuted(index, 4, (seed,)) for index in range(4)) for seed in range(4800))
    assert len(orders) == 24
    assert sum((count - 200) ** 2 / 200 for count in orders.values()) < 60  # 23 degrees of freedom: p = 4e-5


def test_an_epoch_visits_each_sequence_once_and_the_next_in_another_order() -> None:
    samples = toy(97).shuffled(5)
    epochs = [drawn(samples, 97 * epoch, 97) for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1000, 1097))] * 3
    assert len(set(map(tuple, epochs))) == 3


@given(st.integers(0, 10**12), st.integers(1, 20), st.integers(0, 2**31 - 1))
def test_order_depends_on_seed_and_index_alone(first: int, count: int, seed: int) -> None:
    weights = (0.5, 0.3, 1.7)
    whole = drawn(toy(40, 7, 30, weights=weights).shuffled(seed), first, count)
    fresh = toy(40, 7, 30, weights=weights).shuffled(seed)
    assert whole == [drawn(fresh, index, 1)[0] for index in range(first, first + count)]


def test_the_order_of_a_seed_never_changes() -> None:
    """Golden: another order would break every resumed run."""
    one, two = toy(100).shuffled(0), toy(100, 10, weights=(3.0, 1.0)).shuffled(1)
    assert drawn(one, 95, 10) == [1036, 1086, 1035, 1089, 1051, 1088, 1071, 1014, 1056, 1010]
    assert drawn(two, 5000, 10) == [1056, 1039, 1057, 1091, 1049, 2005, 1043, 2005, 2007, 1071]


def test_other_seeds_give_other_orders() -> None:
    assert len({tuple(drawn(toy(100).shuffled(seed), 0, 10)) for seed in range(50)}) == 50


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.1, 0.7, 0.2), (5.0, 1e-3, 2.5, 1 / 3)])
def test_weights_are_the_shares_of_the_sequences(weights: tuple[float, ...]) -> None:
    count = 4 * shards.TURNS
    found = Counter(token // 1000 for token in drawn(toy(*[50] * len(weights), weights=weights).shuffled(3), 0, count))
    for at, weight in enumerate(weights, 1):
        assert found[at] == pytest.approx(count * weight / sum(weights), abs=len(weights))


def test_every_source_is_gone_through_evenly_however_rarely_it_is_drawn() -> None:
    found = Counter(drawn(toy(10, 30, weights=(1.0, 3.0)).shuffled(9), 0, 40 * 256))
    assert set(found.values()) == {256}


def test_sources_of_equal_weight_do_not_simply_take_turns() -> None:
    turns = [token // 1000 for token in drawn(toy(50, 50).shuffled(0), 0, 1000)]
    repeats = sum(one == two for one, two in pairwise(turns))
    assert repeats == pytest.approx(500, abs=80)


def test_texts_are_tokenised_once_whatever_their_weight_and_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = opened(tmp_path, data_of(tmp_path))
    monkeypatch.setattr(Tokenizer, "encode_all", None)
    second, _ = opened(tmp_path, data_of(tmp_path, seq=32))
    assert (first.digest, first.tokens) == (second.digest, second.tokens)


def test_every_change_of_the_text_changes_the_digest(tmp_path: Path) -> None:
    one, _ = opened(tmp_path, data_of(tmp_path))
    two, _ = opened(tmp_path, data_of(tmp_path, count=201))
    three, _ = opened(tmp_path, data_of(tmp_path, held_out=0.5))
    assert len({one.digest, two.digest, three.digest}) == 3


def damage_size(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def damage_bit(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


@pytest.mark.parametrize(
    ("damage", "deep", "message"),
    [
        (damage_size, False, "damaged: it has {less} bytes, its manifest lists {size}"),
        (Path.unlink, False, "damaged: it has 0 bytes, its manifest lists {size}"),
        (damage_bit, True, "damaged: its bytes are not those its manifest lists"),
    ],
)
def test_a_damaged_shard_is_named_where_given_and_made_again_in_the_cache(
    tmp_path: Path, damage: object, deep: bool, message: str
) -> None:
    data = data_of(tmp_path)
    dataset, tokenizer = opened(tmp_path, data)
    before = dataset.digest, decoded(dataset.train, tokenizer)
    write(Texts(data, tmp_path), tokenizer, tmp_path / "out")
    size = (tmp_path / "out" / "train-0-00000.bin").stat().st_size
    for shard in tmp_path.rglob("train-0-00000.bin"):
        damage(shard)  # type: ignore[operator]
    given = DataConfig(train=[Source(path="out")], seq=SEQ)
    with pytest.raises(SpecError) as caught:
        prepare(given, tokenizer, tmp_path / "cache", tmp_path, deep)
    told = message.format(size=size, less=size - 2)
    assert str(caught.value) == f"{tmp_path}/out/train-0-00000.bin:1:1: error: {told}"
    after = prepare(data, tokenizer, tmp_path / "cache", tmp_path, deep)
    assert (after.digest, decoded(after.train, tokenizer)) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', ""])
def test_what_is_not_a_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SpecError) as caught:
        verify(tmp_path)
    assert str(caught.value) == f"{tmp_path}/{MANIFEST}:1:1: error: not a manifest of token shards in format 1"


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    _, tokenizer = opened(tmp_path, data)
    path = write(Texts(data, tmp_path), tokenizer, tmp_path / "out") / MANIFEST
    path.write_text(path.read_text().replace("train-0-00000.bin", "../train.bin"))
    with pytest.raises(SpecError, match="not a manifest"):
        verify(tmp_path / "out")


def test_a_shard_folder_stands_for_the_text_it_was_made_from(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    text, tokenizer = opened(tmp_path, data)
    write(Texts(data, tmp_path), tokenizer, tmp_path / "out")
    given = data.model_copy(update={"train": [Source(path="out")]})
    (tmp_path / "texts.jsonl").unlink()
    dataset, loaded = opened(tmp_path, given)
    assert loaded.digest == tokenizer.digest
    assert dataset == Dataset(dataset.train, dataset.validation, text.digest, text.tokens, text.bytes_per_token)
    assert torch.equal(dataset.train.shuffled(1).batch(0, 50), text.train.shuffled(1).batch(0, 50))


def test_text_and_shards_mix_and_shards_without_held_out_text_validate_whole(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    _, tokenizer = opened(tmp_path, data)
    write_jsonl(tmp_path / "other.jsonl", texts(50, seed=1))
    other = DataConfig(train=[Source(path="other.jsonl")], held_out=0)
    write(Texts(other, tmp_path), tokenizer, tmp_path / "out")
    apart = DataConfig(train=data.train, validation=[Source(path="out")], seq=SEQ)
    dataset = prepare(apart, tokenizer, tmp_path / "cache", tmp_path)
    assert decoded(dataset.train, tokenizer) == texts(200)
    assert decoded(dataset.validation, tokenizer) == texts(50, seed=1)
    mixed = apart.model_copy(update={"train": [Source(path="out"), *data.train], "validation": []})
    dataset = prepare(mixed, tokenizer, tmp_path / "cache", tmp_path)
    held = decoded(dataset.validation, tokenizer)
    assert sorted(decoded(dataset.train, tokenizer) + held) == sorted(texts(200) + texts(50, seed=1))


def test_shards_that_are_trained_on_do_not_validate_as_well(tmp_path: Path) -> None:
    data = data_of(tmp_path, held_out=0)
    tokenizer = prepare_tokenizer(CONFIG, data, tmp_path / "cache", tmp_path)
    write(Texts(data, tmp_path), tokenizer, tmp_path / "out")
    both = DataConfig(train=[Source(path="out")], validation=[Source(path="out")], seq=SEQ)
    with pytest.raises(SpecError, match="out:1:1: error: no text is held out; give `validation` sources"):
        prepare(both, tokenizer, tmp_path / "cache", tmp_path)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    _, tokenizer = opened(tmp_path, data)
    _, other = opened(tmp_path, data, TokenizerConfig(vocab=320))
    write(Texts(data, tmp_path), tokenizer, tmp_path / "out")
    given = DataConfig(train=[Source(path="out")], seq=SEQ)
    hint = f"tokenizer: {{path: out/{MODEL}}}"
    with pytest.raises(SpecError) as caught:
        prepare(given, other, tmp_path / "cache", tmp_path)
    told = "written with another tokenizer, of 300 pieces; the run's has 320"
    assert str(caught.value) == f"{tmp_path}/out:1:1: error: {told}; {hint}"
    with pytest.raises(SpecError) as caught:
        prepare_tokenizer(TokenizerConfig(vocab=320), given, tmp_path / "cache", tmp_path)
    told = "the shards have a tokenizer of 300 pieces, the run asks for 320"
    assert str(caught.value) == f"{tmp_path}/out:1:1: error: {told}; {hint}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"held_out": 0}, "no text is held out; give `validation` sources, or `held_out` above 0"),
        ({"seq": 100_000}, "the training text has {train} tokens, one sequence takes 100001"),
        ({"seq": 5000, "held_out": 0.01}, "the held-out text has {held} tokens, one sequence takes 5001"),
        ({"validation": [Source(path="texts.jsonl")]}, "no text is left to train on: all of it is held out"),
    ],
)
def test_text_that_is_too_short_is_one_line(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    tokenizer = opened(tmp_path, data_of(tmp_path))[1]
    data = data_of(tmp_path, **keys)
    with pytest.raises(SpecError) as caught:
        prepare(data, tokenizer, tmp_path / "cache", tmp_path)
    (manifest,) = (
        verify(path.parent) for path in sorted((tmp_path / "cache").rglob(MANIFEST), key=os.path.getmtime)[-1:]
    )
    told = message.format(train=manifest.train[0].tokens, held=manifest.validation[0].tokens)
    assert str(caught.value) == f"{tmp_path}/texts.jsonl:1:1: error: {told}"


SLOW = """
import sys, time
from pathlib import Path
from runners import cache, shards
from runners.corpus import Texts
from runners.tokenizer import Tokenizer, load
encode_all = Tokenizer.encode_all
Tokenizer.encode_all = lambda self, texts: time.sleep(0.02) or encode_all(self, texts)
shards.BATCH_CHARACTERS = 1
folder = Path(sys.argv[1])
data = shards.DataConfig.model_validate({"train": [shards.Source(path="texts.jsonl")]})
shards.write(Texts(data, folder), load(folder / "some.model"), folder / "out")
"""


def test_a_kill_leaves_nothing_half_written_and_the_next_start_succeeds(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    _, tokenizer = opened(tmp_path, data)
    (tmp_path / "some.model").write_bytes(tokenizer.model_bytes)
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], env=os.environ | {"PYTHONPATH": ROOT})
    while not (tmp_path / ".out.new" / "train-0-00000.bin").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    manifest = verify(write(Texts(data, tmp_path), tokenizer, tmp_path / "out"), deep=True)
    assert manifest.train[0].documents + manifest.validation[0].documents == 200
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


ROOT = str(Path(shards.__file__).parents[1])


def test_an_error_while_a_folder_is_made_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "kept"

    def fail(fresh: Path) -> None:
        (fresh / "part").write_text("half")
        raise OSError(28, "No space left on device")

    cache.made(target, Path.exists, lambda fresh: None)
    with pytest.raises(SpecError) as caught:
        cache.made(target, lambda path: False, fail)
    assert str(caught.value) == f"{target}:1:1: error: cannot be written: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError) as caught:
        cache.made(tmp_path / "file" / "kept", Path.exists, lambda fresh: None)
    assert "kept:1:1: error: cannot be written: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_that_ask_at_once_one_makes_and_all_get_it(tmp_path: Path) -> None:
    makers: list[str] = []

    def make(fresh: Path) -> None:
        makers.append(threading.current_thread().name)
        time.sleep(0.05)
        (fresh / "done").write_text("")

    def ask() -> None:
        assert (cache.made(tmp_path / "kept", lambda path: (path / "done").exists(), make) / "done").exists()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKGRAPH_CACHE", "a")
    monkeypatch.setenv("XDG_CACHE_HOME", "b")
    monkeypatch.setenv("HOME", "c")
    assert cache.folder() == Path("a")
    monkeypatch.delenv("BLOCKGRAPH_CACHE")
    assert cache.folder() == Path("b/blockgraph")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path("c/.cache/blockgraph")

"""Laws of the shards: all text comes back, nothing held out is trained on, nothing is tokenised twice."""

import os
from pathlib import Path

import pytest
import torch
from data_case import CONFIG, SEQ, data_of, decoded, opened, texts, write_jsonl

from blockgraph.errors import SpecError
from runners.cache import MANIFEST, MODEL, verify
from runners.corpus import DataConfig, Source, Texts
from runners.shards import Dataset, prepare, write
from runners.tokenizer import Tokenizer, TokenizerConfig
from runners.tokenizer import prepare as prepare_tokenizer


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


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(tmp_path)
    tokenizer = prepare_tokenizer(CONFIG, data, tmp_path / "cache", tmp_path)
    monkeypatch.setattr(Tokenizer, "dtype", "<u4")
    assert verify(write(Texts(data, tmp_path), tokenizer, tmp_path / "out")).dtype == "<u4"
    dataset = prepare(data, tokenizer, tmp_path / "cache", tmp_path)
    assert decoded(dataset.validation, tokenizer) == [found.text for found in Texts(data, tmp_path).held_out(0)]


def test_texts_are_tokenised_once_whatever_their_weight_and_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = opened(tmp_path, data_of(tmp_path))
    monkeypatch.setattr(Tokenizer, "encode_documents", None)
    second, _ = opened(tmp_path, data_of(tmp_path, seq=32))
    assert (first.digest, first.tokens) == (second.digest, second.tokens)


def test_every_change_of_the_text_changes_the_digest(tmp_path: Path) -> None:
    one, _ = opened(tmp_path, data_of(tmp_path))
    two, _ = opened(tmp_path, data_of(tmp_path, count=201))
    three, _ = opened(tmp_path, data_of(tmp_path, held_out=0.5))
    assert len({one.digest, two.digest, three.digest}) == 3


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

"""Laws of the order: a seed and an index decide it, every sequence has its turn, every source its share."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from data_case import SEQ, data_of, decoded, drawn, opened, toy
from hypothesis import given
from hypothesis import strategies as st

from runners import cache
from runners import tokenizer as encoding
from runners.cache import Part
from runners.corpus import Texts
from runners.samples import TURNS, Samples, Seen, Windows, permuted


def test_a_batch_is_int64_and_holds_one_token_more_than_seq(tmp_path: Path) -> None:
    dataset, _ = opened(tmp_path, data_of(tmp_path))
    batch = dataset.train.shuffled(0).batch(3, 5)
    assert (batch.dtype, tuple(batch.shape)) == (torch.int64, (5, SEQ + 1))


def test_sequences_in_order_are_the_text_with_one_token_shared(tmp_path: Path) -> None:
    dataset, _ = opened(tmp_path, data_of(tmp_path))
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
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 300)
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
    count = 4 * TURNS
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


@given(st.integers(0, 4 * TURNS), st.integers(0, 99))
def test_what_was_seen_of_each_source_is_what_was_drawn(count: int, seed: int) -> None:
    samples = toy(40, 7, 30, weights=(0.5, 0.3, 1.7)).shuffled(seed)
    found = Counter(token // 1000 for token in drawn(samples, 0, count)) if count else Counter()
    assert [seen.sequences for seen in samples.seen(count)] == [found[at] for at in (1, 2, 3)]


def test_what_was_seen_of_held_out_text_is_counted_in_its_order() -> None:
    assert [seen.sequences for seen in toy(40, 7, 30).seen(50)] == [40, 7, 3]
    assert [seen.sequences for seen in toy(0, 7).seen(9)] == [0, 7]


def test_a_run_can_tell_what_it_saw_of_each_source() -> None:
    parts = [[Part(source=name, documents=1, bytes=1, tokens=81, shards=[])] for name in ("code", "prose")]
    arrays = np.zeros(81, np.uint16), np.zeros(41, np.uint16)
    sources = tuple(Windows(part, (array,), 2) for part, array in zip(parts, arrays, strict=True))
    seen = Samples(sources, (3.0, 1.0), seed=0).seen(TURNS)
    assert seen == (Seen("code", 768, 1536, 768 / 40), Seen("prose", 256, 512, 256 / 20))
    assert [str(found) for found in seen] == [
        "code: 1,536 tokens, 19.20 times its text",
        "prose: 512 tokens, 12.80 times its text",
    ]


@given(st.lists(st.integers(0, 3), min_size=9, max_size=60))
def test_a_token_stands_in_the_document_whose_end_comes_next(tokens: list[int]) -> None:
    windows = Windows([], (np.array(tokens, np.uint16),), 4)
    batch, documents = Samples((windows,), (1.0,), end=0).batch_with_documents(0, len(windows))
    assert batch.tolist() == Samples((windows,), (1.0,)).batch(0, len(windows)).tolist()
    assert documents.tolist() == [[row[:at].count(0) for at in range(4)] for row in batch.tolist()]
    assert documents.dtype == torch.int64


def test_documents_are_numbered_in_the_sequences_of_a_run(tmp_path: Path) -> None:
    dataset, tokenizer = opened(tmp_path, data_of(tmp_path))
    tokens, documents = dataset.train.shuffled(4).batch_with_documents(0, 64)
    assert documents.shape == (64, SEQ)
    assert (documents[:, 0] == 0).all()
    assert ((tokens[:, :-1] == tokenizer.end).sum(1) >= documents[:, -1]).all()
    assert documents.max() == 1


def test_without_an_end_a_sequence_is_one_document() -> None:
    assert not toy(5, seq=2).batch_with_documents(0, 2)[1].any()

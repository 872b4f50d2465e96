"""Laws of the tokenizer: no character is lost, no held-out text is learnt from, training is repeatable."""

import io
import json
import random
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from blockgraph.errors import Problems, SpecError
from blockgraph.schema import fill
from blockgraph.syntax import parse
from runners import tokenizer as module
from runners.cache import MODEL
from runners.corpus import DataConfig, Source, Texts
from runners.documents import Document
from runners.tokenizer import SPACE_MARK, Tokenizer, TokenizerConfig, load, prepare

WORDS = ["the", "state", "of", "union", "is", "strong", "and", "our", "people", "have", "made", "progress", "since"]
HARD = [
    "",
    "\n",
    "\r\n\r\n",
    " leading  and trailing ",
    "a\n\n\n b\n",
    f"{SPACE_MARK}a {SPACE_MARK}{SPACE_MARK}\n{SPACE_MARK} b",
    "\ufeffcafé 中文 😀👩‍👩‍👧 \u2028 \0",
    "</s><s><unk> <0x0A>",
    "one " * 5000,
    "x" * 20_000,
    "中" * 5000,
    "\n" * 9000,
]


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of made-up sentences, each of its own."""
    draw = random.Random(seed)
    return [
        "\n".join(" ".join(draw.choices(WORDS, k=12)).capitalize() + f". No {number}!" for _ in range(4))
        for number in range(count)
    ]


def corpus_of(folder: Path, documents: list[str]) -> DataConfig:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
    return DataConfig(train=[Source(path="texts.jsonl")])


def trained(**options: object) -> bytes:
    """A model that SentencePiece trains by itself, with options of another making than ours."""
    model = io.BytesIO()
    lines = [line for text in texts(100) for line in text.split("\n")]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, **{"vocab_size": 400, **options}
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("ours")
    return prepare(TokenizerConfig(vocab=400), corpus_of(folder, texts(200)), folder / "cache", folder)


@pytest.fixture(scope="module")
def prefixing() -> Tokenizer:
    """A model that puts a space before every text, as many published ones do."""
    return Tokenizer(
        trained(
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        )
    )


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_come_back_exactly(ours: Tokenizer, prefixing: Tokenizer, text: str) -> None:
    for tokenizer in (ours, prefixing):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(st.sampled_from(f" \n\r\t{SPACE_MARK}ab."), st.characters(exclude_categories=["Cs"]))))
@example(f"\n{SPACE_MARK}\n {SPACE_MARK}a")
def test_every_text_comes_back_exactly(ours: Tokenizer, prefixing: Tokenizer, text: str) -> None:
    for tokenizer in (ours, prefixing):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.bos, tokenizer.eos, 0} & set(ids)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(" \nthestaofuni.é"), max_size=300))
def test_encoding_by_lines_gives_the_ids_of_the_whole(ours: Tokenizer, prefixing: Tokenizer, text: str) -> None:
    for tokenizer in (ours, prefixing):
        assert tokenizer.encode(text) == SentencePieceProcessor(model_proto=tokenizer.model_bytes).encode(text)


def test_texts_encoded_together_are_as_encoded_alone(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [ours.encode(text) for text in HARD]
    assert [ids.tolist() for ids in ours.encode_all(HARD)] == alone
    monkeypatch.setattr(module, "LINES", 3)
    assert [ids.tolist() for ids in ours.encode_all(HARD)] == alone


def test_a_model_without_bytes_is_known_to_lose_characters(ours: Tokenizer) -> None:
    assert ours.is_lossless
    assert not Tokenizer(trained(vocab_size=60, model_type="unigram")).is_lossless


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_a_trained_model_has_the_size_asked_for_and_is_repeatable(tmp_path: Path, model: str) -> None:
    data = corpus_of(tmp_path, texts(200))
    config = TokenizerConfig.model_validate({"vocab": 330, "model": model})
    one, two = (prepare(config, data, tmp_path / name, tmp_path) for name in "ab")
    assert (one.vocab, one.bos, one.eos, one.end) == (330, 1, 2, 2)
    assert (one.digest, one.model_bytes) == (two.digest, two.model_bytes)


def test_a_model_is_trained_once_and_again_when_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, config = corpus_of(tmp_path, texts(200)), TokenizerConfig(vocab=330)
    runs: list[str] = []
    train = module._train
    monkeypatch.setattr(module, "_train", lambda *given: runs.append("") or train(*given))
    first = prepare(config, data, tmp_path / "cache", tmp_path)
    assert prepare(config, data, tmp_path / "cache", tmp_path).digest == first.digest
    assert len(runs) == 1
    (kept,) = (tmp_path / "cache").rglob(MODEL)
    kept.write_bytes(first.model_bytes[:-1])
    assert prepare(config, data, tmp_path / "cache", tmp_path).model_bytes == first.model_bytes
    assert len(runs) == 2
    assert sorted(path.name for path in (tmp_path / "cache" / "tokenizers").rglob("*")) == sorted(
        [kept.parent.name, MODEL, "sha256"]
    )


def test_nothing_is_learnt_from_held_out_documents(tmp_path: Path) -> None:
    documents = texts(200)
    data = corpus_of(tmp_path, documents)
    (held, *_) = (document.text for document in Texts(data, tmp_path).held_out(0))
    plain = prepare(TokenizerConfig(vocab=400), data, tmp_path / "cache", tmp_path)
    (tmp_path / "own.txt").write_text(held + " Zyzzyva" * 500, encoding="utf-8")
    (tmp_path / "rest.jsonl").write_text(
        "".join(
            json.dumps({"text": document.text}) + "\n" for document in Texts(data, tmp_path).training(data.train[0])
        ),
        encoding="utf-8",
    )
    split = DataConfig(train=[Source(path="rest.jsonl"), Source(path="*.txt")], validation=[Source(path="own.txt")])
    assert prepare(TokenizerConfig(vocab=400), split, tmp_path / "cache", tmp_path).digest == plain.digest


def test_a_large_text_is_thinned_out_in_the_same_way_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Texts(corpus_of(tmp_path, texts(500)), tmp_path)
    whole = list(module._lines(found))
    monkeypatch.setattr(module, "TRAINING_BYTES", found.size // 4)
    part = list(module._lines(found))
    assert part == list(module._lines(found))
    assert len(part) == pytest.approx(len(whole) / 4, rel=0.15)


def test_the_digest_is_of_the_pieces(ours: Tokenizer) -> None:
    assert ours.digest == Tokenizer(ours.model_bytes).digest
    assert ours.digest != Tokenizer(trained(model_type="bpe", byte_fallback=True)).digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{path: a.model, vocab: 400}",
            "1:1: error: `path` loads a ready model, `vocab` and `model` train one; give one of the two",
        ),
        ("{vocab: null}", "1:1: error: `vocab` and `model` are needed to train one, or `path` to load one"),
        ("{vocab: 100}", "1:9: error: vocab must be at least 260, found 100"),
        ("{model: word}", "1:9: error: model: 'word' is not known; known are bpe, unigram"),
        ("{kind: tiktoken}", "1:8: error: kind: 'tiktoken' is not known; known are sentencepiece"),
    ],
)
def test_a_bad_key_is_told_at_its_place(text: str, message: str) -> None:
    problems = Problems()
    fill(TokenizerConfig, parse(text, "run.yaml"), problems)
    assert [problem.line for problem in problems.found] == [f"run.yaml:{message}"]


def test_a_config_written_out_in_full_reads_back() -> None:
    for config in (TokenizerConfig(), TokenizerConfig(path="a.model"), TokenizerConfig(vocab=500, model="unigram")):
        assert TokenizerConfig.model_validate(config.model_dump()) == config
    assert TokenizerConfig().model_dump() == {"kind": "sentencepiece", "vocab": 4096, "model": "bpe", "path": None}


@pytest.mark.parametrize(
    ("documents", "vocab", "message"),
    [
        (["a b c", "d e f"], 400, "400 pieces are more than the training text gives; it gives "),
        (["".join(map(chr, range(0x4E00, 0x4F00)))] * 2 + ["b"], 270, "270 pieces are fewer than the characters of"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_one_line(
    tmp_path: Path, documents: list[str], vocab: int, message: str
) -> None:
    data = corpus_of(tmp_path, documents).model_copy(update={"held_out": 0})
    with pytest.raises(SpecError) as caught:
        prepare(TokenizerConfig(vocab=vocab), data, tmp_path / "cache", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/texts.jsonl:1:1: error: {message}")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "tokenizers").iterdir())


def test_a_bad_model_file_is_one_line(tmp_path: Path) -> None:
    files = {
        "none.model": (None, "cannot be read: No such file or directory"),
        "empty.model": (b"", "the file is empty"),
        "text.model": (b"not a model", "not a SentencePiece model"),
        "ends.model": (
            trained(vocab_size=60, bos_id=-1, eos_id=-1),
            "has neither an end nor a beginning symbol, so documents could not be told apart",
        ),
    }
    for name, (data, message) in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(SpecError) as caught:
            load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path}/{name}:1:1: error: {message}"


@pytest.mark.parametrize(("vocab", "dtype"), [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_two_bytes_hold_every_id_of_a_small_vocabulary(
    ours: Tokenizer, monkeypatch: pytest.MonkeyPatch, vocab: int, dtype: str
) -> None:
    monkeypatch.setattr(ours, "vocab", vocab)
    assert ours.dtype == dtype
    assert np.iinfo(dtype).max >= vocab - 1


def test_documents_come_back_in_order_with_an_end_behind_each(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 100)
    given = [Document(str(number), text) for number, text in enumerate(HARD + texts(50))]
    found = list(ours.encode_documents(given))
    assert [document for document, _ in found] == given
    assert [ids.tolist() for _, ids in found] == [[*ours.encode(document.text), ours.end] for document in given]
    assert {ids.dtype.str for _, ids in found} == {"<u2"}


def test_an_endless_stream_of_documents_is_read_only_a_little_ahead(
    ours: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 1)
    numbers = count()
    found = ours.encode_documents(Document("", f"number {number}") for number in numbers)
    assert len([next(found) for _ in range(10)]) == 10
    found.close()
    assert next(numbers) <= 10 + module.BATCHES + 1

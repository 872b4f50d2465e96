"""SentencePiece model that turns text into token ids and back without loss."""

import io
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from rich.console import Console
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from blockgraph.errors import SpecError
from blockgraph.schema import Fields
from runners.cache import MODEL, Tokens, digest, file_digest, made, refuse
from runners.corpus import DataConfig, Source, Texts, shard_folder
from runners.documents import Document, batches
from runners.streaming import identity

CHECKSUM = "sha256"
VOCAB = 4096
LEAST_VOCAB = 260  # 256 bytes, three control symbols and one piece
TRAINING_BYTES = 100_000_000  # of text that pieces are learnt from; more is thinned out line by line
TRAINING_THREADS = 4  # fixed, because scores may depend on it
LINE = 4096  # characters encoded at once; one long string takes far longer than its lines
LINES = 2**15  # given to the threads at once
BATCH_CHARACTERS = 2**21  # of documents encoded at once
BATCHES = 3  # under way at once, so that the threads have work while Python makes a batch ready
SPACE_MARK = "\u2581"  # stands for a space inside SentencePiece, so a text's own has to go by its bytes
PROBE = " a  b\r\n\n\tc\u00e9\u4e2d\U0001f600\u2581\x00 \n"

Ids = np.ndarray[Any, np.dtype[np.int32]]
NONE: Ids = np.array([], np.int32)

# A run of line ends with the line after it, cut before a space where the line is too long.
_REST = rf"[^\n{SPACE_MARK}]{{1,{LINE}}}"
_CHUNK = re.compile(rf"{SPACE_MARK}|\n{{0,{LINE}}}(?:{_REST}(?![^ \n{SPACE_MARK}])|{_REST})|\n{{1,{LINE}}}")


class TokenizerConfig(Fields):
    """Where the tokenizer comes from: trained on the training text, or a ready model."""

    kind: Literal["sentencepiece"] = Field("sentencepiece", description="the library that makes and reads the model")
    vocab: int | None = Field(None, ge=LEAST_VOCAB, description="pieces to train; left out: 4096, null with `path`")
    model: Literal["bpe", "unigram"] | None = Field(None, description="how to train; left out: bpe, null with `path`")
    path: str | None = Field(None, description="a ready .model file, in place of `vocab` and `model`")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("path") is None:
            return given | {"vocab": given.get("vocab", VOCAB), "model": given.get("model", "bpe")}
        return given

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.path is not None and (self.vocab or self.model):
            raise ValueError("`path` loads a ready model, `vocab` and `model` train one; give one of the two")
        if self.path is None and not (self.vocab and self.model):
            raise ValueError("`vocab` and `model` are needed to train one, or `path` to load one")
        return self


class Tokenizer:
    """Text to ids and back; `bos` and `eos` are None where the model has none."""

    def __init__(self, model_bytes: bytes):
        self.model_bytes = model_bytes
        self._pieces = SentencePieceProcessor(model_proto=model_bytes)
        self.vocab = self._pieces.get_piece_size()
        self.bos, self.eos = _known(self._pieces.bos_id()), _known(self._pieces.eos_id())
        # A model may put a space before every text, so what stands before a chunk is encoded too and taken off again.
        guard = self._pieces.encode("\n")
        self._guard = guard if self._pieces.decode(guard) == "\n" else []

    @cached_property
    def digest(self) -> str:
        """Hash of the pieces with their scores and kinds; the bytes of a model differ where its pieces do not."""
        ids = list(range(self.vocab))
        pieces = self._pieces
        kinds = [pieces.is_control(ids), pieces.is_byte(ids), pieces.is_unused(ids)]
        return digest([pieces.id_to_piece(ids), pieces.get_score(ids), kinds, self.bos, self.eos])

    @property
    def dtype(self) -> Literal["<u2", "<u4"]:
        """The smallest integers that hold every id, as numpy calls them."""
        return "<u2" if self.vocab <= 2**16 else "<u4"

    @property
    def end(self) -> int:
        """The id that stands after every document."""
        end = self.bos if self.eos is None else self.eos
        assert end is not None, "load() refuses a model without bos and eos"
        return end

    @cached_property
    def is_lossless(self) -> bool:
        """Whether blanks, line ends, rare characters and bytes come back as they were."""
        return self.decode(self.encode(PROBE)) == PROBE

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without symbols for its beginning or end."""
        return list(map(int, self.encode_all([text])[0]))

    def encode_all(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text; encoded by its lines, and by as many threads as there are cores."""
        chunked = [_CHUNK.findall(text) for text in texts]
        found = self._ids([self._guarded(chunks, at) for chunks in chunked for at in range(len(chunks))])
        return [np.concatenate([NONE, *islice(found, len(chunks))]) for chunks in chunked]

    def encode_documents(self, documents: Iterable[Document]) -> Iterator[tuple[Document, Tokens]]:
        """Each document with its ids and the end symbol behind them."""
        waiting = deque[Future[list[tuple[Document, Tokens]]]]()
        with ThreadPoolExecutor(BATCHES) as pool:
            for batch in batches(documents, BATCH_CHARACTERS):
                waiting.append(pool.submit(self._ended, batch))
                if len(waiting) > BATCHES:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control symbols have none."""
        return str(self._pieces.decode(list(ids)))

    def bytes_of(self, piece: int) -> bytes:
        """What one id adds to the text as it is decoded, behind others; characters may be cut in two."""
        if self._pieces.is_byte(piece):
            return bytes([int(self._pieces.id_to_piece(piece)[1:-1], 16)])
        if self._pieces.is_control(piece):
            return b""
        if self._pieces.is_unknown(piece):
            return str(self._pieces.decode([piece])).encode()
        return str(self._pieces.id_to_piece(piece)).replace(SPACE_MARK, " ").encode()

    def _ended(self, documents: list[Document]) -> list[tuple[Document, Tokens]]:
        found = zip(documents, self.encode_all([document.text for document in documents]), strict=True)
        return [(document, np.append(ids, self.end).astype(self.dtype)) for document, ids in found]

    def _ids(self, lines: list[tuple[str, int]]) -> Iterator[Ids]:
        for at in range(0, len(lines), LINES):
            some = lines[at : at + LINES]
            found = self._pieces.encode([line for line, _ in some], out_type="numpy")
            for (line, skip), ids in zip(some, found, strict=True):
                yield self._mark if line == SPACE_MARK and len(self._mark) else ids[skip:]

    def _guarded(self, chunks: list[str], at: int) -> tuple[str, int]:
        """A chunk in the form it is encoded in, and how many ids at its front are not its own."""
        chunk = chunks[at]
        if at == 0 or chunk == SPACE_MARK or not self._guard:
            return chunk, 0
        return (chunk, len(self._guard) - 1) if chunk[0] == "\n" else (f"\n{chunk}", len(self._guard))

    @cached_property
    def _mark(self) -> Ids:
        ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        return np.array(ids if all(self._pieces.is_byte(ids)) else [], np.int32)


def prepare(config: TokenizerConfig, data: DataConfig, cache: Path, base: Path) -> Tokenizer:
    """The tokenizer of a run: loaded, taken from token shards, or trained once on the training text and kept.

    Held-out documents are never learnt from. Raises `SpecError` when the model or the text does not fit.
    """
    if config.path is not None:
        return load(base / config.path)
    for source in data.train:
        if folder := shard_folder(source, base):
            return _of_shards(folder, source, config)
    texts = Texts(data, base, cache)
    streamed = [data.fraction, *map(identity, texts.hub)]
    target = cache / "tokenizers" / digest([config.model_dump(), texts.digest, streamed])
    made(target, _is_whole, lambda fresh: _write(fresh, _train(config, texts)))
    return Tokenizer((target / MODEL).read_bytes())


def load(path: Path) -> Tokenizer:
    """A tokenizer from a SentencePiece file; raise `SpecError` when it is none, or cannot tell documents apart."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}", path) from None
    if not model:
        raise refuse("the file is empty", path)
    try:
        tokenizer = Tokenizer(model)
    except RuntimeError:
        raise refuse("not a SentencePiece model", path) from None
    if tokenizer.bos is None and tokenizer.eos is None:
        raise refuse("has neither an end nor a beginning symbol, so documents could not be told apart", path)
    return tokenizer


def _of_shards(folder: Path, source: Source, config: TokenizerConfig) -> Tokenizer:
    tokenizer = load(folder / MODEL)
    if tokenizer.vocab != config.vocab:
        told = f"the shards have a tokenizer of {tokenizer.vocab} pieces, the run asks for {config.vocab}"
        raise refuse(told, folder, hint=f"tokenizer: {{path: {source.path}/{MODEL}}}")
    return tokenizer


def _is_whole(folder: Path) -> bool:
    try:
        return file_digest(folder / MODEL) == (folder / CHECKSUM).read_text()
    except OSError:
        return False


def _write(folder: Path, model: bytes) -> None:
    (folder / MODEL).write_bytes(model)
    (folder / CHECKSUM).write_text(file_digest(folder / MODEL))


def _train(config: TokenizerConfig, texts: Texts) -> bytes:
    lines = list(_lines(texts))
    with Console(stderr=True).status(f"training a tokenizer of {config.vocab} pieces"):
        try:
            return _trained(config, lines)
        except RuntimeError as error:
            raise _too_far(config, texts, str(error)) from None


def _trained(config: TokenizerConfig, lines: list[str]) -> bytes:
    """A model that keeps text as it is: no normalisation, no added space, unknown characters as their bytes."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=config.vocab,
        model_type=config.model,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=4 * LINE,
        num_threads=TRAINING_THREADS,
        minloglevel=2,
    )
    return model.getvalue()


def _lines(texts: Texts) -> Iterator[str]:
    """Lines to learn from; of a large text those whose checksum is low, which a rerun draws again."""
    limits = [min(TRAINING_BYTES, source.tokens or 0) for source in texts.hub]
    bound = 2**32 * min(1, TRAINING_BYTES / max(1, texts.size + sum(limits)))
    for document in chain(*map(texts.training, texts.train), *map(texts.streamed, texts.hub, limits)):
        for line in document.text.split("\n"):
            if zlib.crc32(line.encode()) < bound:
                yield from (line[at : at + LINE] for at in range(0, len(line), LINE))


def _too_far(config: TokenizerConfig, texts: Texts, told: str) -> SpecError:
    """SentencePiece's complaint in the words of the run file."""
    message = f"no tokenizer can be trained on it: {told.splitlines()[0]}"
    if found := re.search(r"too high .*<= (\d+)", told):
        message = f"{config.vocab} pieces are more than the training text gives; it gives {found[1]}"
    elif found := re.search(r"required_chars\. \d+ vs (\d+)", told):
        message = f"{config.vocab} pieces are fewer than the characters of the training text need; they need {found[1]}"
    elif "sentences_.empty()" in told:
        message = "no training text is left to train a tokenizer on"
    return refuse(message, texts.data.train[0].place(texts.base))


def _known(symbol: int) -> int | None:
    return None if symbol < 0 else symbol

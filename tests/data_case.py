"""Made-up texts, and what a run draws from them."""

import json
import random
from pathlib import Path

import numpy as np

from runners.corpus import DataConfig, Source
from runners.samples import Samples, Windows
from runners.shards import Dataset, prepare
from runners.tokenizer import Tokenizer, TokenizerConfig
from runners.tokenizer import prepare as prepare_tokenizer

SEQ = 16
CONFIG = TokenizerConfig(vocab=300)
ROOT = str(Path(__file__).parents[1])


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of made-up words, each of its own, with all that tends to get lost."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshr", k=draw.randint(2, 6))) for _ in range(60)]
    return [
        f"Number {number}:\r\n\n" + " ".join(draw.choices(words, k=40)) + " café 😀\u2581\n" for number in range(count)
    ]


def write(path: Path, data: str | bytes) -> Path:
    """A file in a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_jsonl(path: Path, documents: list[str], field: str = "text") -> Source:
    """A file of documents, and the source that it is to files beside it."""
    write(path, "".join(json.dumps({field: text}) + "\n" for text in documents))
    return Source(path=path.name, field=field)


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

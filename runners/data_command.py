"""`blockgraph data`: text to a tokenizer and token shards."""

import argparse
import sys
from pathlib import Path

from blockgraph.errors import SpecError
from runners.cache import MODEL, Manifest, folder, holds, refuse, total, verify
from runners.corpus import HELD_OUT, HELD_OUT_YEARS, DataConfig, Source, Texts
from runners.shards import key, write
from runners.streaming import SPLIT, Intake
from runners.tokenizer import LEAST_VOCAB, VOCAB, Tokenizer, TokenizerConfig, load, prepare

INTERRUPTED = 130
ORIGIN = ("corpus", "path", "hub", "name", "split", "revision", "tokens", "field", "separator")
HELD_OUT_HELP = f"of the documents (default: {HELD_OUT}; of sotu the last {HELD_OUT_YEARS} years)"
EXAMPLES = """examples:
  blockgraph data --corpus sotu --out shards
  blockgraph data --path 'texts/*.txt' --vocab 8192 --model unigram --out shards
  blockgraph data --path web.jsonl.gz --field content --tokenizer some.model --out shards
  blockgraph data --hub allenai/c4 --name en --tokens 200000000 --tokenizer some.model
  blockgraph data --verify shards

in a run file, `data: {train: [{path: shards}]}` and `tokenizer: {path: shards/tokenizer.model}` then use them"""


def command(argv: list[str]) -> int:
    """Tokenise text into shards, or verify those of a folder.

    Exits with 0 when done, 1 when the input is at fault, 130 on Ctrl-C.

    Leaves through `SystemExit` with 2 on wrong usage.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.tokenizer and (options.vocab or options.model):
        parser.error("--tokenizer loads a ready model, --vocab and --model train one; give one of the two")
    if bool(options.hub) != bool(options.tokens):
        parser.error("--hub and --tokens go together: a data set of the hub, and how many tokens to take of it")
    if not options.hub and (options.name or options.split or options.revision):
        parser.error("--name, --split and --revision are of a data set given by --hub")
    try:
        print(_verified(options.verify) if options.verify else _written(options))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = (
            "the same command goes on from the parts that are done" if options.hub else "nothing half-written is left"
        )
        print(f"stopped; {kept}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph data",
        description="Train or load a SentencePiece model and tokenise text into shards.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", choices=["sotu"], help="the State of the Union addresses")
    what.add_argument("--path", metavar="GLOB", help="files of .txt, .jsonl(.gz|.zst) or .parquet")
    what.add_argument("--hub", metavar="DATASET", help="a data set of the Hugging Face hub, such as allenai/c4")
    what.add_argument("--verify", metavar="DIR", type=Path, help="compare the shards of a folder with their hashes")
    parser.add_argument("--name", help="configuration of a data set of the hub, such as en")
    parser.add_argument("--split", help=f"split of a data set of the hub (default: {SPLIT})")
    parser.add_argument("--revision", help="commit or tag of a data set of the hub (default: the newest)")
    parser.add_argument("--tokens", type=_tokens, help="training tokens to take of a data set of the hub")
    parser.add_argument("--field", default="text", help="field or column that holds the text (default: text)")
    parser.add_argument("--separator", type=_separator, help=r"what stands between the documents of a file, as '\n\n'")
    parser.add_argument("--held-out", metavar="FRACTION", type=_fraction, help=HELD_OUT_HELP)
    parser.add_argument("--tokenizer", metavar="FILE", help="a ready SentencePiece .model")
    parser.add_argument("--vocab", type=_vocab, help=f"pieces of a tokenizer to train (default: {VOCAB})")
    parser.add_argument("--model", choices=["bpe", "unigram"], help="how to train it (default: bpe)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write (default: one in the cache)")
    return parser


def _vocab(word: str) -> int:
    if not word.isdecimal() or int(word) < LEAST_VOCAB:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {LEAST_VOCAB}, found {word}")
    return int(word)


def _tokens(word: str) -> int:
    count = word.replace("_", "")
    if not count.isdecimal() or not int(count):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {word}")
    return int(count)


def _fraction(word: str) -> float:
    try:
        fraction = float(word)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to less than 1, found {word}")
    return fraction


def _separator(word: str) -> str:
    if not word:
        raise argparse.ArgumentTypeError("expected at least one character")
    return word.replace(r"\n", "\n").replace(r"\t", "\t")


def _written(options: argparse.Namespace) -> str:
    source = Source.model_validate({name: getattr(options, name) for name in ORIGIN})
    texts = Texts(DataConfig(train=[source], held_out=options.held_out), Path(), folder())
    if not texts.train + texts.hub:
        raise refuse("holds token shards already", source.label, hint="see --verify")
    asked = {"vocab": options.vocab, "model": options.model, "path": options.tokenizer}
    config = TokenizerConfig.model_validate({name: value for name, value in asked.items() if value is not None})
    tokenizer = prepare(config, texts.data, folder(), texts.base)
    intake = Intake(source, tokenizer, texts.data.fraction)
    wanted = intake.key if source.hub else key(texts, tokenizer)
    target = options.out or folder() / "shards" / wanted
    if options.out:
        _refuse_occupied(target, wanted)
    made = intake.write(target) if source.hub else write(texts, tokenizer, target)
    return _table(verify(made), target, tokenizer)


def _refuse_occupied(target: Path, wanted: str) -> None:
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied and not holds(target, wanted):
        raise refuse("holds something other than whole shards of this text", target, hint="name a new folder")


def _verified(target: Path) -> str:
    manifest, tokenizer = verify(target, deep=True), load(target / MODEL)
    if tokenizer.digest != manifest.tokenizer:
        raise refuse("damaged: its pieces are not those the manifest lists", target / MODEL)
    return _table(manifest, target, tokenizer)


def _table(manifest: Manifest, target: Path, tokenizer: Tokenizer) -> str:
    """What the shards hold, as lines for a terminal."""
    columns = [total(manifest.train), total(manifest.validation)]
    rows = [
        ("", "training", "held out"),
        ("documents", *(f"{part.documents:,}" for part in columns)),
        ("bytes of text", *(f"{part.bytes:,}" for part in columns)),
        ("tokens", *(f"{part.tokens:,}" for part in columns)),
        ("bytes per token", *(f"{part.bytes / part.tokens:.3f}" if part.tokens else "-" for part in columns)),
    ]
    exact = "text comes back exactly" if tokenizer.is_lossless else "some text does not come back as it was"
    lines = [f"{name:<16}{training:>16}{held_out:>16}" for name, training, held_out in rows]
    return "\n".join([*lines, f"tokenizer       {tokenizer.vocab:,} pieces; {exact}", f"shards          {target}"])

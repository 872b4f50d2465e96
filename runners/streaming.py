"""Data sets of the Hugging Face hub, taken in part by part so that a kill costs one part at most."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from blockgraph.errors import SpecError
from runners.cache import FORMAT, Manifest, Part, Tokens, digest, holds, made, refuse, seal, total, verify, write_part
from runners.documents import Document, key_bound, library, record

if TYPE_CHECKING:
    from runners.corpus import Source
    from runners.tokenizer import Tokenizer

PART_CHARACTERS = 2**26  # of text in a part
SPLIT = "train"  # where a source names none
OFFLINE = "`blockgraph data --hub` fills the cache where there is a network"


class Stream:
    """The documents of a hub data set in its own order, from any position on.

    Every method raises `SpecError` when the library is missing or the hub cannot be reached.
    """

    def __init__(self, source: "Source"):
        self.source, self.rows, self.has_ended = source, 0, False

    @property
    def position(self) -> dict[str, Any]:
        """Where it stands, as plain data."""
        return {"rows": self.rows, "state": self._data.state_dict()}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position; does nothing where it stands there already."""
        if position["rows"] != self.rows:
            with _telling(self.source):
                self._data.load_state_dict(position["state"])
                self.rows, self._found = position["rows"], iter(self._data)

    def take(self, characters: int) -> Iterator[Document]:
        """Documents of the next rows, until these hold so many characters or the data set ends."""
        with _telling(self.source):
            for row in self._found:
                self.rows += 1
                document = record(row, self.source.field, self.source.label, self.rows)
                yield from document.split(self.source.separator)
                characters -= len(document.text)
                if characters <= 0:
                    return
        self.has_ended = True

    @cached_property
    def _data(self) -> Any:
        source, datasets = self.source, library("datasets", self.source.label, "hub")
        with _telling(source):
            split, revision = source.split or SPLIT, source.revision
            return datasets.load_dataset(source.hub, source.name, split=split, revision=revision, streaming=True)

    @cached_property
    def _found(self) -> Iterator[dict[str, Any]]:
        return iter(self._data)


@dataclass(frozen=True)
class Intake:
    """The tokens that a run asks of a hub data set; `held_out` is the fraction of its documents to keep apart."""

    source: "Source"
    tokenizer: "Tokenizer"
    held_out: float

    @cached_property
    def key(self) -> str:
        """Hash of all that the shards depend on."""
        return digest([FORMAT, identity(self.source), self.held_out, self.tokenizer.digest])

    def write(self, folder: Path, deep: bool = False) -> Path:
        """The folder, with shards of the data set in it; they are streamed unless they lie there whole.

        A kill leaves the parts that are done beside the folder, and the next call goes on from them.
        """
        parts = folder.with_name(f".{folder.name}.parts")
        made(folder, lambda found: holds(found, self.key, deep), lambda fresh: self._join(parts, fresh))
        shutil.rmtree(parts, ignore_errors=True)
        return folder

    def _join(self, parts: Path, folder: Path) -> None:
        train, validation = list[Part](), list[Part]()
        with bar(f"streaming {self.source.label}", self._tokens) as advance:
            for part, manifest in self._parts(parts):
                train += manifest.train
                validation += manifest.validation
                for shard in total(manifest.train + manifest.validation).shards:
                    os.link(part / shard.file, folder / shard.file)
                advance(train[-1].tokens)
        if not total(train + validation).documents:
            raise refuse("there is no text in it", self.source.label)
        seal(folder, self.tokenizer, self.key, [total(train)], [total(validation)])

    def _parts(self, folder: Path) -> Iterator[tuple[Path, Manifest]]:
        """Shard folders that follow one another, each streamed unless it lies there whole."""
        stream, left, after = Stream(self.source), self._tokens, None
        for number in count():
            key = digest([self.key, number])
            fill = partial(self._fill, stream, number, key, after, left)
            part = made(folder / f"{number:05}", partial(holds, wanted=key), fill)
            manifest = verify(part)
            yield part, manifest
            after, left = manifest.after, left - manifest.train[0].tokens
            if after is None or left <= 0:
                return

    def _fill(
        self, stream: Stream, number: int, key: str, after: dict[str, Any] | None, left: int, folder: Path
    ) -> None:
        if after:
            stream.seek(after)
        label, held = self.source.label, list[tuple[int, Tokens]]()
        documents = self.tokenizer.encode_documents(stream.take(PART_CHARACTERS))
        train = write_part(folder, f"train-0-{number:05}", label, self._training(documents, held, left))
        validation = write_part(folder, f"validation-0-{number:05}", label, held)
        after = None if stream.has_ended else stream.position
        seal(folder, self.tokenizer, key, [train], [validation], after)

    def _training(
        self, documents: Iterator[tuple[Document, Tokens]], held: list[tuple[int, Tokens]], left: int
    ) -> Iterator[tuple[int, Tokens]]:
        """The documents to train on until these have as many tokens as are left to take; `held` gets the others."""
        bound = key_bound(self.held_out)
        for document, ids in documents:
            text = len(document.text.encode()), ids
            if document.key < bound:
                held.append(text)
                continue
            yield text
            left -= len(ids)
            if left <= 0:
                return

    @property
    def _tokens(self) -> int:
        assert self.source.tokens, "a hub source without `tokens` is refused"
        return self.source.tokens


def identity(source: "Source") -> dict[str, Any]:
    """All that decides which text is taken from a data set of the hub, as plain data."""
    return source.model_dump(exclude={"weight"}) | {"split": source.split or SPLIT}


@contextmanager
def bar(what: str, whole: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr while something is made; elsewhere nothing."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=whole)
        yield lambda size: progress.advance(task, size)


@contextmanager
def _telling(source: "Source") -> Iterator[None]:
    """What goes wrong inside the library, told at the source; its errors have no base of their own."""
    try:
        yield
    except SpecError:
        raise
    except Exception as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)
        hint = OFFLINE if isinstance(error, ConnectionError) else ""
        raise refuse(f"cannot be streamed: {told}", source.label, hint=hint) from error

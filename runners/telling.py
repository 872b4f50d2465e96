"""Text on stdout as its tokens come: no half characters, and on a terminal none that it would act on."""

import codecs
import io
import sys
from collections.abc import Callable, Sequence

HARMLESS = "\n\t"


class Teller:
    """Writes one text as it grows; several are kept, and written one below the other once all have ended."""

    def __init__(self, count: int, bytes_of: Callable[[int], bytes], prompt: str):
        self.bytes_of, self.prompt = bytes_of, prompt
        self.decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(count)]
        self.texts = [prompt] * count
        self.streams = count == 1
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to end
        if self.streams:
            self._put(prompt)

    def tell(self, tokens: Sequence[int | None]) -> None:
        """Take the next token of each text; None adds nothing."""
        for row, token in enumerate(tokens):
            if token is not None:
                self._add(row, self.decoders[row].decode(self.bytes_of(token)))

    def close(self) -> None:
        """What is left: the bytes of a character that was never completed, and texts that had to wait."""
        for row, decoder in enumerate(self.decoders):
            self._add(row, decoder.decode(b"", final=True))
        if self.streams:
            self._put("\n")
            return
        for row, text in enumerate(self.texts, 1):
            self._put(f"--- {row} of {len(self.texts)}\n{text}\n")

    def _add(self, row: int, text: str) -> None:
        self.texts[row] += text
        if self.streams:
            self._put(text)

    def _put(self, text: str) -> None:
        if sys.stdout.isatty():
            text = "".join(c if c.isprintable() or c in HARMLESS else c.encode("unicode_escape").decode() for c in text)
        sys.stdout.write(text)
        sys.stdout.flush()

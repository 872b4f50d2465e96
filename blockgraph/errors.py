"""Places in a text, problems found there, and the one error a user sees.

- `SpecError`: what a spec or a run file gets wrong, one or more problems
- `OpError`: raised by an op's shape rule; the checker adds node and place
- `Told`: an `OpError` that follows from a fault told already, so nothing is said of it
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

MAX_PROBLEMS = 100  # more than anybody reads at once
MAX_MESSAGE = 500  # characters
CLOSE, CLOSE_SHORT = 0.67, 0.5  # share of letters in common from which a name counts as a near miss
SHORT = 4  # letters; `lm` for `ln` shares just half of them
MAX_NAMES = 1000  # that a word is compared with


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: file, 1-based line and column, the line's text and the width to underline.

    Line 0 is a whole that has no lines, such as the command line.
    """

    file: str
    line: int = 1
    column: int = 1
    text: str = ""
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: what is wrong, where, and what would be right when that is known."""

    message: str
    place: Place
    hint: str = ""

    @property
    def line(self) -> str:
        """The one-line form, `file:line:column: error: message; hint`."""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{_printable(str(self.place))}: error: {_printable(self.message + hint)}"

    def __str__(self) -> str:
        if not self.place.text.strip():
            return self.line
        return f"{self.line}\n{_snippet(self.place)}"


class SpecError(ValueError):
    """A user's mistake in a spec, a run file or a command line; `problems` holds all of them in file order."""

    def __init__(self, problems: Iterable[Problem], note: str = ""):
        self.problems = tuple(sorted(problems, key=lambda p: (p.place.file, p.place.line, p.place.column)))
        super().__init__("\n".join([*map(str, self.problems), *([note] if note else [])]))


class OpError(ValueError):
    """A rule that cannot be met; the message may hold `{}` for the types or sizes that disagree.

    The checker says where it is, names the sizes as the spec does and gives the values behind them.
    """

    def __init__(self, message: str, *values: object):
        self.message, self.values = message, values
        super().__init__(message.format(*values) if values else message)


class Told(OpError):
    """A rule that cannot be tried because of a fault that is told elsewhere; nobody mentions it again."""

    def __init__(self) -> None:
        super().__init__("")


@dataclass
class Problems:
    """Collects faults so that all of a file are told in one go; gives up at a hundred of them."""

    found: list[Problem] = field(default_factory=list)

    def add(self, message: str, place: Place, hint: str = "") -> None:
        """Note a fault; raises `SpecError` with all of them once there are more than anybody reads."""
        self.found.append(Problem(message, place, hint))
        if len(self.found) >= MAX_PROBLEMS:
            raise SpecError(dict.fromkeys(self.found), f"stopped after {MAX_PROBLEMS} errors")

    def stop_if_any(self) -> None:
        """Raise `SpecError` with everything found so far; return if there is nothing."""
        if self.found:
            raise SpecError(dict.fromkeys(self.found))


def closest(word: str, known: Iterable[str]) -> str:
    """The known name that `word` was probably meant to be; empty when none is close."""
    names = _likely(word, sorted(known))
    cutoff = CLOSE_SHORT if len(word) <= SHORT else CLOSE
    close = get_close_matches(word, names, 1, cutoff) or get_close_matches(word.lower(), names, 1, cutoff)
    longer = (name for name in names if len(name) > 2 and word.startswith(name))
    return next(iter(close), "") or max(longer, key=len, default="")


def _likely(word: str, names: list[str]) -> list[str]:
    """All names, or of very many those of about the word's length that begin or end like it."""
    if len(names) <= MAX_NAMES:
        return names
    alike = (name for name in names if abs(len(name) - len(word)) <= 2)
    return [name for name in alike if name[:1] == word[:1] or name[-1:] == word[-1:]][:MAX_NAMES]


def near_miss(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or nothing when no known name is close."""
    close = closest(word, known)
    return f"did you mean '{close}'?" if close else ""


def _printable(text: str) -> str:
    """A message on one line of bounded length, with nothing in it that a terminal would act on."""
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _snippet(place: Place) -> str:
    number = str(place.line)
    text, column = _window(place)
    caret = " " * (column - 1) + "^" * max(1, min(place.width, len(text) - column + 1))
    return f"  {number} | {text}\n  {' ' * len(number)} | {caret}"


def _window(place: Place, width: int = 160) -> tuple[str, int]:
    """The line, cut round the column when it is too long to read."""
    start = max(0, min(place.column - 1 - width // 2, len(place.text) - width))
    text = place.text[start : start + width]
    return "".join(c if c.isprintable() else " " for c in text), place.column - start

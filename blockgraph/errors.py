"""Places in a text, problems found there, and the one error a user sees.

    SpecError            what a spec or a run file gets wrong: one or more problems
    OpError              raised by an op's shape rule; the checker adds node and place
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches


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
        return f"{self.place}: error: {self.message}{hint}"

    def __str__(self) -> str:
        if not self.place.text.strip():
            return self.line
        return f"{self.line}\n{_snippet(self.place)}"


class SpecError(ValueError):
    """A user's mistake in a spec, a run file or a command line; `problems` holds all of them in file order."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(sorted(problems, key=lambda p: (p.place.file, p.place.line, p.place.column)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class OpError(ValueError):
    """A rule that cannot be met; the message may hold `{}` for the types or sizes that disagree.

    The checker says where it is, names the sizes as the spec does and gives the values behind them.
    """

    def __init__(self, message: str, *values: object):
        self.message, self.values = message, values
        super().__init__(message.format(*values) if values else message)


@dataclass
class Problems:
    """Collects faults so that all of a file are told in one go."""

    found: list[Problem] = field(default_factory=list)

    def add(self, message: str, place: Place, hint: str = "") -> None:
        self.found.append(Problem(message, place, hint))

    def stop_if_any(self) -> None:
        """Raise `SpecError` with everything found so far; return if there is nothing."""
        if self.found:
            raise SpecError(dict.fromkeys(self.found))


def near_miss(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or nothing when no known name is close."""
    close = get_close_matches(str(word), sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def _snippet(place: Place) -> str:
    number = str(place.line)
    text, column = _window(place)
    caret = " " * (column - 1) + "^" * max(1, min(place.width, len(text) - column + 1))
    return f"  {number} | {text}\n  {' ' * len(number)} | {caret}"


def _window(place: Place, width: int = 160) -> tuple[str, int]:
    """The line, cut round the column when it is too long to read."""
    text = "".join(c if c.isprintable() else " " for c in place.text)
    if len(text) <= width:
        return text, place.column
    start = max(0, min(place.column - 1 - width // 2, len(text) - width))
    return text[start : start + width], place.column - start

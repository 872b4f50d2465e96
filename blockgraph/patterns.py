"""Patterns over dotted names: `*` is anything within a word, `**` any number of words."""

import re
from collections.abc import Iterable


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern stands for, in their order: `layers.*.attn.qkv.x.l2`, `**.l2`."""
    found = re.compile("".join(map(_word, pattern.split("."))))
    return [name for name in names if found.fullmatch(f"{name}.")]


def _word(word: str) -> str:
    """A word of a pattern with the dot behind it, as a regular expression."""
    if word == "**":
        return r"(?:[^.]+\.)*"
    return "[^.]*".join(map(re.escape, word.split("*"))) + r"\."

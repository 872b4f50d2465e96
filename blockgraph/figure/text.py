"""Widths of labels from a table of our own, and the words that a figure shows."""

import re
import unicodedata

# Advance widths of DejaVu Sans for the characters from space to tilde, in thousandths of the size. Most fonts that a
# reader may have instead are narrower, so a label that fits here fits there; and no figure depends on the machine.
_WIDTHS = (
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636,
    636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863,
    748, 787, 603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635,
    615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636,
    337, 636, 838,
)  # fmt: skip
_OTHER, _WIDE, _BOLD = 838, 1100, 1.11
MAX_LABEL, MAX_TITLE = 30, 80  # characters


def width(text: str, size: float, bold: bool = False) -> float:
    """Width of a line of text in points."""
    units = sum(_units(character) for character in text)
    return units / 1000 * size * (_BOLD if bold else 1.0)


def _units(character: str) -> int:
    index = ord(character) - 32
    if 0 <= index < len(_WIDTHS):
        return _WIDTHS[index]
    return _WIDE if unicodedata.east_asian_width(character) in "WF" else _OTHER


def clean(text: str, limit: int = MAX_LABEL) -> str:
    """One printable line of at most `limit` characters, whatever the user's text holds."""
    line = " ".join("".join(c if _shown(c) else " " for c in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _shown(character: str) -> bool:
    """Whether XML may hold the character and a reader sees it where it stands."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def display(name: str) -> str:
    """A node's name as the papers write it: `qkv` as QKV, `fc1` as FC1, `proj` as Proj, `up_proj` as Up proj."""
    words = name.split("_")
    first, *rest = [word.upper() if _abbreviation(word) else word for word in words]
    return " ".join([first[:1].upper() + first[1:], *rest])


def _abbreviation(word: str) -> bool:
    return len(word) <= 4 and not re.search("[aeiou]", word)


def short(number: int, unit: str = "") -> str:
    """A count in three digits with its prefix: 3.15M, or 3.15 MFLOP with a unit."""
    scaled, prefixes = float(number), ["", "k", "M", "G", "T", "P", "E"]
    while scaled >= 999.5 and len(prefixes) > 1:
        scaled, prefixes = scaled / 1000, prefixes[1:]
    return f"{scaled:.3g} {prefixes[0]}{unit}" if unit else f"{scaled:.3g}{prefixes[0]}"

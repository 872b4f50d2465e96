"""Polynomials in named dims with exact coefficients: the arithmetic under every size."""

from collections.abc import Mapping
from fractions import Fraction

from blockgraph.errors import OpError

MAX_POWER = 64
MAX_TERMS = 1000
MAX_FACTOR = 2**1000

Monomial = tuple[tuple[str, int], ...]  # names with their powers, in the order of the alphabet
Terms = tuple[tuple[Monomial, Fraction], ...]


def constant(number: int | Fraction) -> Terms:
    """A number by itself."""
    return _terms({(): Fraction(number)})


def symbol(name: str) -> Terms:
    """A dim by itself."""
    return _terms({((name, 1),): Fraction(1)})


def number_in(terms: Terms) -> Fraction | None:
    """The number, or None where a dim is left in it."""
    if not terms:
        return Fraction(0)
    return terms[0][1] if len(terms) == 1 and terms[0][0] == () else None


def add(left: Terms, right: Terms) -> Terms:
    """The sum; raises `OpError` when it grows out of bounds."""
    table = dict(left)
    for monomial, factor in right:
        table[monomial] = table.get(monomial, Fraction(0)) + factor
    return _terms(table)


def multiply(left: Terms, right: Terms) -> Terms:
    """The product; raises `OpError` when it grows out of bounds."""
    if len(left) * len(right) > MAX_TERMS:
        raise OpError(f"an expression of more than {MAX_TERMS} terms")
    table: dict[Monomial, Fraction] = {}
    for a, factor_a in left:
        for b, factor_b in right:
            monomial = _join(a, b)
            table[monomial] = table.get(monomial, Fraction(0)) + factor_a * factor_b
    return _terms(table)


def divide(left: Terms, right: Terms) -> Terms | None:
    """The quotient by a single term; None for a sum as divisor. Raises `OpError` for zero."""
    if not right:
        raise OpError("division by zero")
    if len(right) > 1:
        return None
    ((divisor, factor),) = right
    return _terms({_join(monomial, divisor, -1): value / factor for monomial, value in left})


def substitute(terms: Terms, values: Mapping[str, Fraction]) -> Terms:
    """The same polynomial with numbers in the place of some dims."""
    table: dict[Monomial, Fraction] = {}
    for monomial, factor in terms:
        for name, power in monomial:
            factor *= values[name] ** power if name in values else 1
        rest = tuple((name, power) for name, power in monomial if name not in values)
        table[rest] = table.get(rest, Fraction(0)) + factor
    return _terms(table)


def text_of(terms: Terms) -> str:
    """The polynomial as an expression that reads back to it."""
    if not terms:
        return "0"
    return " + ".join(_term_text(monomial, factor) for monomial, factor in reversed(terms)).replace("+ -", "- ")


def _terms(table: Mapping[Monomial, Fraction]) -> Terms:
    kept = sorted((monomial, factor) for monomial, factor in table.items() if factor)
    if len(kept) > MAX_TERMS:
        raise OpError(f"an expression of more than {MAX_TERMS} terms")
    if any(abs(factor.numerator) > MAX_FACTOR or factor.denominator > MAX_FACTOR for _, factor in kept):
        raise OpError("an expression with numbers that are too large")
    return tuple(kept)


def _join(a: Monomial, b: Monomial, sign: int = 1) -> Monomial:
    powers = dict(a)
    for name, power in b:
        powers[name] = powers.get(name, 0) + sign * power
    if any(abs(power) > MAX_POWER for power in powers.values()):
        raise OpError(f"a power is at most {MAX_POWER}")
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _term_text(monomial: Monomial, factor: Fraction) -> str:
    above = [_power_text(name, power) for name, power in monomial if power > 0]
    below = [_power_text(name, -power) for name, power in monomial if power < 0]
    if abs(factor.numerator) != 1 or not above:
        above.insert(0, str(factor.numerator))
    elif factor < 0:
        above[0] = f"-{above[0]}"
    if factor.denominator != 1:
        below.insert(0, str(factor.denominator))
    return "*".join(above) + "".join(f"/{name}" for name in below)


def _power_text(name: str, power: int) -> str:
    return name if power == 1 else f"{name}**{power}"

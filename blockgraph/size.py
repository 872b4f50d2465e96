"""A size: a polynomial in dims that knows how it was written and what it comes to.

The symbolic form is what errors and figures show; the one with every bound dim put in decides equality. So two axes
meet when their numbers do, however they were written: `d_head: 64` and `d_model / n_heads` are one size at these
dims, and an error as soon as somebody sets dims at which they are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from blockgraph.errors import OpError
from blockgraph.polynomial import Terms, add, constant, divide, multiply, number_in, substitute, symbol, text_of


@dataclass(frozen=True, slots=True)
class Size:
    """A whole number of entries along an axis; equality looks at the value, text at the symbols."""

    form: Terms = field(compare=False)
    value: Terms

    @staticmethod
    def constant(number: int | Fraction) -> "Size":
        """A number without a name."""
        return Size(constant(number), constant(number))

    @staticmethod
    def symbol(name: str, value: int | None = None) -> "Size":
        """A dim by name, with its value when it is bound."""
        return Size(symbol(name), symbol(name) if value is None else constant(value))

    @property
    def known(self) -> int | None:
        """The whole number, or None while a dim such as `seq` is unbound."""
        number = self.fraction
        return None if number is None or number.denominator != 1 else int(number)

    @property
    def fraction(self) -> Fraction | None:
        """The number even when it is not whole, or None while a dim is unbound."""
        return number_in(self.value)

    @property
    def names(self) -> frozenset[str]:
        """Every dim the symbolic form mentions."""
        return _names(self.form)

    @property
    def unbound(self) -> frozenset[str]:
        """Every dim whose value is not known yet."""
        return _names(self.value)

    def __add__(self, other: "Size | int") -> "Size":
        other = _as_size(other)
        return Size(add(self.form, other.form), add(self.value, other.value))

    def __sub__(self, other: "Size | int") -> "Size":
        return self + _as_size(other) * -1

    def __mul__(self, other: "Size | int") -> "Size":
        other = _as_size(other)
        return Size(multiply(self.form, other.form), multiply(self.value, other.value))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: "Size | int") -> "Size":
        other = _as_size(other)
        value = divide(self.value, other.value)
        if value is None:
            raise OpError(f"cannot divide by {other}, which is known only at run time")
        form = divide(self.form, other.form)
        return Size(value if form is None else form, value)

    def at(self, **values: int) -> int:
        """The number when the run-time dims have these values."""
        number = number_in(substitute(self.value, {name: Fraction(value) for name, value in values.items()}))
        assert number is not None, f"{self} still depends on {set(self.unbound) - set(values)}"
        return int(number)

    def replace(self, sizes: Mapping[str, "Size"]) -> "Size":
        """The same size with run-time dims renamed or bound."""
        total = Size.constant(0)
        for monomial, factor in self.value:
            term = Size.constant(factor)
            for name, power in monomial:
                term = term * power_of(sizes.get(name, Size.symbol(name)), power)
            total = total + term
        return total if self.names & set(sizes) else Size(self.form, total.value)

    def __str__(self) -> str:
        return text_of(self.form)


def power_of(size: Size, power: int) -> Size:
    """A size times itself."""
    result = Size.constant(1)
    for _ in range(abs(power)):
        result = result * size
    return result if power >= 0 else Size.constant(1) / result


def _as_size(value: Size | int) -> Size:
    return value if isinstance(value, Size) else Size.constant(value)


def _names(terms: Terms) -> frozenset[str]:
    return frozenset(name for monomial, _ in terms for name, _ in monomial)

"""Sizes and numbers written as small arithmetic expressions; parsed by grammar, never evaluated by Python.

A `Size` is a polynomial with exact coefficients. It keeps two forms of itself: the symbolic one it was written
in, which errors and figures show, and the one with every bound dim put in, which decides equality.
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from blockgraph.errors import OpError, near_miss

RUNTIME = ("batch", "seq")  # bound when a tensor arrives, not when the spec is loaded
LAYER = "layer"  # 0-based index inside a stack; known when a layer is built
MAX_TEXT = 200
MAX_POWER = 64
MAX_SIZE = 2**53

Monomial = tuple[tuple[str, int], ...]
Terms = tuple[tuple[Monomial, Fraction], ...]

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"}
_FUNCTIONS = {"sqrt": math.sqrt, "log": math.log, "min": min, "max": max}


@dataclass(frozen=True, slots=True)
class Size:
    """A whole number of entries along an axis; equality looks at the value, text at the symbols."""

    form: Terms = field(compare=False)
    value: Terms

    @staticmethod
    def constant(number: int | Fraction) -> "Size":
        terms = _terms({(): Fraction(number)})
        return Size(terms, terms)

    @staticmethod
    def symbol(name: str, value: int | None = None) -> "Size":
        """A dim by name, with its value when it is bound."""
        form = _terms({((name, 1),): Fraction(1)})
        return Size(form, form if value is None else _terms({(): Fraction(value)}))

    @property
    def known(self) -> int | None:
        """The whole number, or None while a dim such as `seq` is unbound."""
        number = _constant(self.value)
        return None if number is None or number.denominator != 1 else int(number)

    @property
    def fraction(self) -> Fraction | None:
        """The number even when it is not whole, or None while a dim is unbound."""
        return _constant(self.value)

    @property
    def names(self) -> frozenset[str]:
        """Every dim the symbolic form mentions."""
        return frozenset(name for monomial, _ in self.form for name, _ in monomial)

    def __add__(self, other: "Size | int") -> "Size":
        other = _as_size(other)
        return Size(_add(self.form, other.form), _add(self.value, other.value))

    def __sub__(self, other: "Size | int") -> "Size":
        return self + _as_size(other) * -1

    def __mul__(self, other: "Size | int") -> "Size":
        other = _as_size(other)
        return Size(_multiply(self.form, other.form), _multiply(self.value, other.value))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: "Size | int") -> "Size":
        other = _as_size(other)
        value = _divide(self.value, other.value)
        return Size(_divide(self.form, other.form, value), value)

    def at(self, **values: int) -> int:
        """The number when the run-time dims have these values."""
        bound = _substitute(self.value, {name: Fraction(number) for name, number in values.items()})
        number = _constant(bound)
        assert number is not None, f"{self} still depends on {self.names - set(values)}"
        return int(number)

    def replace(self, sizes: Mapping[str, "Size"]) -> "Size":
        """The same size with run-time dims renamed or bound."""
        total = Size.constant(0)
        for monomial, factor in self.value:
            term = Size.constant(factor)
            for name, power in monomial:
                term = term * _power(sizes.get(name, Size.symbol(name)), power)
            total = total + term
        form = self.form if not any(name in sizes for name in self.names) else total.form
        return Size(form, total.value)

    def __str__(self) -> str:
        return _text(self.form)


@dataclass(frozen=True, slots=True)
class Number:
    """A real number of a spec; `value` is None while it depends on `seq`, `batch` or `layer`."""

    text: str
    tree: ast.expr = field(compare=False, repr=False)
    bound: tuple[tuple[str, float], ...] = field(compare=False, repr=False)
    value: float | None
    free: frozenset[str]

    def at(self, **values: float) -> float:
        """The number once the free names are known."""
        return float(_evaluate(self.tree, dict(self.bound) | values))

    def source(self, names: Mapping[str, str]) -> str:
        """Python text: a float literal, or an expression over `names` where it depends on them."""
        # torch 2.13's inductor fails on integer divisors, so literals are always floats.
        return repr(self.value) if self.value is not None else _python(self.tree, dict(self.bound), names)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Dims:
    """The dims of a spec: `sizes` by name, in symbols of the ones given as plain numbers."""

    sizes: Mapping[str, Size]

    def size(self, text: str | int) -> Size:
        """A size from its text; raises `OpError` when it is malformed, unknown or not a positive whole number."""
        size = _polynomial(parse_expression(text), self.sizes)
        number = size.fraction
        if number is not None and (number.denominator != 1 or number <= 0):
            shown = f"{float(number):g}" if abs(number) < MAX_SIZE else str(int(number))
            raise OpError(f"{text} is {shown}{self.where(size)}, not a positive whole number")
        if number is not None and number > MAX_SIZE:
            raise OpError(f"{text} is larger than 2**53")
        return size

    def number(self, text: str | int | float) -> Number:
        """A real number from its text; names must be dims, `batch`, `seq` or `layer`."""
        tree = parse_expression(text)
        known = {name: size.known for name, size in self.sizes.items()}
        bound = {name: float(value) for name, value in known.items() if value is not None}
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(_FUNCTIONS)
        for name in sorted(names):
            _check_name(name, [*self.sizes, LAYER])
        free = frozenset(names - set(bound))
        value = None if free else float(_evaluate(tree, bound))
        return Number(str(text), tree, tuple(bound.items()), value, free)

    def show(self, size: Size) -> str:
        """The size's text, by the spec's own name for it where it has one (`d_ff`, not `4*d_model`)."""
        return next((name for name, known in self.sizes.items() if known.form == size.form), str(size))

    def where(self, *sizes: Size) -> str:
        """` (d_model = 1000, n_heads = 16)`: the values behind the symbols of these sizes."""
        names = sorted({name for size in sizes for name in size.names if name in self.sizes})
        known = [(name, self.sizes[name].known) for name in names]
        given = [f"{name} = {value}" for name, value in known if value is not None]
        return f" ({', '.join(given)})" if given else ""


def number_of(value: float) -> Number:
    """A plain constant."""
    return Number(f"{value:g}", ast.Constant(value), (), float(value), frozenset())


def parse_expression(text: str | int | float) -> ast.expr:
    """The syntax tree of `+ - * / // %`, bounded powers, `sqrt log min max`, names and numbers; nothing else."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise OpError(f"expected a number or an expression such as `4 * d_model`, found {text!r}")
    text = str(text).strip()
    if len(text) > MAX_TEXT:
        raise OpError(f"an expression of more than {MAX_TEXT} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise OpError(f"'{text}' is not an expression such as `4 * d_model`") from None
    _check_grammar(tree, text)
    return tree


def _check_grammar(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            if not math.isfinite(node.value) or abs(node.value) > 1e300:
                raise OpError(f"'{text}' holds a number that is not finite")
        case ast.Name():
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            _check_grammar(node.operand, text)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            _check_grammar(node.left, text)
            _check_grammar(node.right, text)
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            _check_arity(name, len(node.args))
            for argument in node.args:
                _check_grammar(argument, text)
        case _:
            raise OpError(f"'{text}' is not arithmetic: only + - * / // % **, sqrt log min max, dims and numbers")


def _check_arity(name: str, count: int) -> None:
    if (name in ("sqrt", "log") and count != 1) or count < 1:
        raise OpError(f"{name} takes {'one argument' if name in ('sqrt', 'log') else 'at least one argument'}")


def _check_name(name: str, known: list[str]) -> None:
    if name not in known:
        near = near_miss(name, known)
        raise OpError(f"no dim is called '{name}'" + (f"; {near}" if near else f"; dims are {', '.join(known)}"))


def _polynomial(node: ast.expr, sizes: Mapping[str, Size]) -> Size:
    match node:
        case ast.Constant():
            return Size.constant(Fraction(node.value))
        case ast.Name():
            _check_name(node.id, list(sizes))
            return sizes[node.id]
        case ast.UnaryOp():
            inner = _polynomial(node.operand, sizes)
            return inner * -1 if isinstance(node.op, ast.USub) else inner
        case ast.BinOp():
            return _combine(node.op, _polynomial(node.left, sizes), _polynomial(node.right, sizes))
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            numbers = [_number(_polynomial(argument, sizes), name) for argument in node.args]
            return Size.constant(min(numbers) if name == "min" else max(numbers))
    raise OpError(f"{ast.unparse(node)} does not give a whole size")


def _combine(operator: ast.operator, left: Size, right: Size) -> Size:
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            return _power(left, _exponent(right))
    dividend, divisor = _number(left, "//"), _number(right, "//")
    if divisor == 0:
        raise OpError("division by zero")
    if isinstance(operator, ast.Mod):
        return Size.constant(dividend % divisor)
    quotient = dividend // divisor
    return left / right if quotient * divisor == dividend else Size.constant(quotient)


def _number(size: Size, what: str) -> Fraction:
    if size.fraction is None:
        raise OpError(f"{what} needs numbers, and {size} is known only at run time")
    return size.fraction


def _exponent(size: Size) -> int:
    if size.known is None or not 0 <= size.known <= MAX_POWER:
        raise OpError(f"a power of a size is a whole number from 0 to {MAX_POWER}, found {size}")
    return size.known


def _power(size: Size, power: int) -> Size:
    result = Size.constant(1)
    for _ in range(abs(power)):
        result = result * size
        if any(abs(factor) > MAX_SIZE for _, factor in result.value):
            raise OpError(f"a power of {size} is larger than 2**53")
    return result if power >= 0 else Size.constant(1) / result


def _evaluate(node: ast.expr, env: Mapping[str, float]) -> float:
    match node:
        case ast.Constant():
            return float(node.value)
        case ast.Name():
            return env[node.id]
        case ast.UnaryOp():
            inner = _evaluate(node.operand, env)
            return -inner if isinstance(node.op, ast.USub) else inner
        case ast.Call(func=ast.Name(id=name)):
            return _guarded(_FUNCTIONS[name], *(_evaluate(argument, env) for argument in node.args))
    assert isinstance(node, ast.BinOp), ast.dump(node)
    return _guarded(_ARITHMETIC[type(node.op)], _evaluate(node.left, env), _evaluate(node.right, env))


def _bounded_power(base: float, power: float) -> float:
    if abs(power) > MAX_POWER:
        raise OpError(f"a power is at most {MAX_POWER}, found {power:g}")
    return math.pow(base, power)


_ARITHMETIC = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _bounded_power,
}


def _guarded(function, *arguments: float) -> float:
    try:
        return function(*arguments)
    except ZeroDivisionError:
        raise OpError("division by zero") from None
    except OpError:
        raise
    except (ValueError, OverflowError) as error:
        raise OpError(f"the expression has no finite value: {error}") from None


def _python(node: ast.expr, bound: Mapping[str, float], names: Mapping[str, str]) -> str:
    match node:
        case ast.Constant():
            return repr(float(node.value))
        case ast.Name():
            return names[node.id] if node.id not in bound else repr(bound[node.id])
        case ast.UnaryOp():
            return f"{'-' if isinstance(node.op, ast.USub) else '+'}{_python(node.operand, bound, names)}"
        case ast.Call(func=ast.Name(id=name)):
            function = f"math.{name}" if name in ("sqrt", "log") else name
            return f"{function}({', '.join(_python(argument, bound, names) for argument in node.args)})"
    assert isinstance(node, ast.BinOp), ast.dump(node)
    return f"({_python(node.left, bound, names)} {_OPERATORS[type(node.op)]} {_python(node.right, bound, names)})"


def _as_size(value: Size | int) -> Size:
    return value if isinstance(value, Size) else Size.constant(value)


def _terms(table: Mapping[Monomial, Fraction]) -> Terms:
    return tuple(sorted((monomial, factor) for monomial, factor in table.items() if factor))


def _constant(terms: Terms) -> Fraction | None:
    if not terms:
        return Fraction(0)
    return terms[0][1] if len(terms) == 1 and terms[0][0] == () else None


def _add(left: Terms, right: Terms) -> Terms:
    table = dict(left)
    for monomial, factor in right:
        table[monomial] = table.get(monomial, Fraction(0)) + factor
    return _terms(table)


def _multiply(left: Terms, right: Terms) -> Terms:
    table: dict[Monomial, Fraction] = {}
    for a, factor_a in left:
        for b, factor_b in right:
            monomial = _join(a, b)
            table[monomial] = table.get(monomial, Fraction(0)) + factor_a * factor_b
    return _terms(table)


def _join(a: Monomial, b: Monomial, sign: int = 1) -> Monomial:
    powers = dict(a)
    for name, power in b:
        powers[name] = powers.get(name, 0) + sign * power
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _divide(left: Terms, right: Terms, otherwise: Terms | None = None) -> Terms:
    """Divide by a single term; a sum as divisor falls back to the value, which must be a number."""
    if not right:
        raise OpError("division by zero")
    if len(right) > 1:
        if otherwise is None:
            raise OpError(f"cannot divide by {_text(right)}, which is known only at run time")
        return otherwise
    (divisor, factor), = right
    return _terms({_join(monomial, divisor, -1): value / factor for monomial, value in left})


def _substitute(terms: Terms, values: Mapping[str, Fraction]) -> Terms:
    table: dict[Monomial, Fraction] = {}
    for monomial, factor in terms:
        for name, power in monomial:
            factor *= values[name] ** power if name in values else 1
        rest = tuple((name, power) for name, power in monomial if name not in values)
        table[rest] = table.get(rest, Fraction(0)) + factor
    return _terms(table)


def _text(terms: Terms) -> str:
    if not terms:
        return "0"
    return " + ".join(_term_text(monomial, factor) for monomial, factor in reversed(terms)).replace("+ -", "- ")


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

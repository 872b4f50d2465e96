"""Sizes and numbers of a spec: what its expressions come to, with the dims that are known."""

import ast
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from fractions import Fraction

from blockgraph.errors import OpError, Told, near_miss
from blockgraph.expression import evaluate, literal, names_in, parse_expression, python_text
from blockgraph.polynomial import MAX_POWER, text_of
from blockgraph.size import Size, power_of

__all__ = ["LAYER", "RUNTIME", "Dims", "Number", "Size", "number_of"]

RUNTIME = ("batch", "seq")  # bound when a tensor arrives, not when the spec is loaded
LAYER = "layer"  # 0-based index inside a stack; known when a layer is built
MAX_SIZE = 2**53
MAX_LISTED = 12  # dims that a message names


@dataclass(frozen=True, slots=True)
class Number:
    """A real number of a spec; `value` is None while it depends on `seq`, `batch` or `layer`."""

    text: str
    tree: ast.expr = field(compare=False, repr=False)
    bound: tuple[tuple[str, float], ...] = field(compare=False, repr=False)
    value: float | None
    free: frozenset[str]

    def at(self, **values: float) -> float:
        """The number once the free names are known; raises `OpError` where it is not finite."""
        try:
            number = evaluate(self.tree, dict(self.bound) | values)
        except OpError:
            raise
        except (ArithmeticError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            given = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise OpError(f"'{self.text}' has no finite value{f' at {given}' if given else ''}")
        return number

    def source(self, names: Mapping[str, str]) -> str:
        """Python text: a float literal, or an expression over `names` where it depends on them."""
        # torch 2.13's inductor fails on integer divisors, so literals are always floats.
        known = {name: repr(value) for name, value in self.bound}
        return repr(self.value) if self.value is not None else python_text(self.tree, known | dict(names))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Dims:
    """The dims of a spec: `sizes` by name, in symbols of the ones given as plain numbers.

    `broken` are names whose own line is at fault: what mentions them raises `Told`. `later` are those whose line is
    still to come, and `layered` says whether the spec can stand in a stack, so that `layer` means something.
    """

    sizes: Mapping[str, Size]
    broken: Set[str] = frozenset()
    later: Set[str] = frozenset()
    layered: bool = True

    def size(self, text: str | int) -> Size:
        """A size from its text; raises `OpError` when it is malformed, unknown or not a positive whole number."""
        size = self._polynomial(parse_expression(text))
        number = size.fraction
        if number is None:
            if any(factor.denominator != 1 for _, factor in size.value) or all(factor < 0 for _, factor in size.value):
                raise OpError(f"{text} is not a positive whole number for every {' and '.join(sorted(size.unbound))}")
            if any(power < 0 for monomial, _ in size.value for _, power in monomial):
                raise OpError(f"{text} is not a whole number for every {' and '.join(sorted(size.unbound))}")
        elif number.denominator != 1 or number <= 0:
            value = "" if _decimal(number) == str(text) else f" {_decimal(number)}{self.where(size)},"
            raise OpError(f"{text} is{value} not a positive whole number")
        elif number > MAX_SIZE:
            raise OpError(f"{text} is larger than 2**53")
        return size

    def number(self, text: str | int | float) -> Number:
        """A real number from its text; names must be dims, `batch`, `seq` or `layer`.

        Raises `OpError` when it is malformed, unknown or not finite, on any layer where it depends on the layer.
        """
        tree = parse_expression(text)
        for name in sorted(names_in(tree)):
            if name == LAYER and not self.layered:
                raise OpError("'layer' means something in the blocks of a stack alone")
            self._check_name(name, LAYER)
        tree = _Written(self.sizes).visit(tree)
        sizes = {name: self.sizes[name].known for name in names_in(tree) if name in self.sizes}
        bound = {name: float(size) for name, size in sizes.items() if size is not None}
        number = Number(str(text), tree, tuple(bound.items()), None, names_in(tree) - set(bound))
        if not number.free:
            return Number(number.text, tree, number.bound, number.at(), number.free)
        for layer in range(self._layers() if number.free == {LAYER} else 0):
            number.at(layer=layer)
        return number

    def show(self, size: Size) -> str:
        """The size's text, by the spec's own name for it where it has one (`d_ff`, not `4*d_model`)."""
        return next((name for name, known in self.sizes.items() if known.form == size.form), str(size))

    def shape(self, sizes: Iterable[Size]) -> str:
        """Sizes in brackets, each by the spec's own name for it."""
        return f"[{', '.join(map(self.show, sizes))}]"

    def where(self, *sizes: Size) -> str:
        """` (d_model = 1000, n_heads = 16)`: the values behind the symbols of these sizes."""
        names = sorted({name for size in sizes for name in size.names if name in self.sizes})
        known = [(name, self.sizes[name].known) for name in names]
        given = [f"{name} = {value}" for name, value in known if value is not None]
        return f" ({', '.join(given)})" if given else ""

    def _check_name(self, name: str, *others: str) -> None:
        if name in self.broken:
            raise Told
        if name in self.sizes or name in others:
            return
        if name in self.later:
            raise OpError(f"the dim '{name}' is given further down; put it before this one")
        if name == LAYER:
            raise OpError("'layer' is another number in each layer, so no size can be made of it")
        known = [*self.sizes, *others]
        raise OpError(f"no dim is called '{name}'; {near_miss(name, known) or _listed(known)}")

    def _layers(self) -> int:
        layers = self.sizes.get("n_layers")
        return 1 if layers is None or layers.known is None else layers.known

    def _polynomial(self, node: ast.expr) -> Size:
        match node:
            case ast.Constant():
                return Size.constant(Fraction(repr(literal(node))))  # 0.1 is a tenth, not its nearest binary number
            case ast.Name(id=name):
                self._check_name(name)
                return self.sizes[name]
            case ast.UnaryOp(op=operator, operand=operand):
                inner = self._polynomial(operand)
                return inner * -1 if isinstance(operator, ast.USub) else inner
            case ast.BinOp(left=left, op=operator, right=right):
                return _combine(operator, self._polynomial(left), self._polynomial(right))
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=arguments):
                numbers = [_number(self._polynomial(argument), name) for argument in arguments]
                return Size.constant(min(numbers) if name == "min" else max(numbers))
        raise OpError(f"{ast.unparse(node)} does not give a whole number, as a size has to be")


def number_of(value: float) -> Number:
    """A plain constant."""
    return Number(f"{value:g}", ast.Constant(value), (), float(value), frozenset())


class _Written(ast.NodeTransformer):
    """Writes out dims that are made of run-time dims, so that only `batch`, `seq` and `layer` stay free."""

    def __init__(self, sizes: Mapping[str, Size]):
        self.sizes = sizes

    def visit_Name(self, node: ast.Name) -> ast.expr:
        size = self.sizes.get(node.id)
        if size is None or size.known is not None or size == Size.symbol(node.id):
            return node
        return parse_expression(text_of(size.value))


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
            return power_of(left, _exponent(right))
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


def _decimal(number: Fraction) -> str:
    return f"{float(number):g}" if abs(number) < MAX_SIZE else str(int(number))


def _listed(known: list[str]) -> str:
    if not known:
        return "write a number"
    return f"dims are {', '.join([*known[:MAX_LISTED], *(['...'] if len(known) > MAX_LISTED else [])])}"

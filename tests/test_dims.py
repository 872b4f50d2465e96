"""Laws of sizes and numbers: exact arithmetic, text that reads back, nothing but the grammar."""

import ast
import math
import operator
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from blockgraph.dims import Dims, Size
from blockgraph.errors import OpError
from blockgraph.expression import MAX_TEXT, evaluate, parse_expression, python_text

BOUND = {"a": 3, "b": 16, "c": 60}
FREE = {"batch": 5, "seq": 7}
DIMS = Dims({name: Size.symbol(name) for name in FREE} | {name: Size.symbol(name, n) for name, n in BOUND.items()})
FREE_DIMS = Dims({name: Size.symbol(name) for name in (*FREE, *BOUND)})

# A tree is a number, a name, or (operator, left, right); this is the oracle's own reading of an expression.
EXACT = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "min": min,
    "max": max,
}


def trees(names, operators):
    leaves = st.integers(0, 30) | st.sampled_from(names)
    powers = st.tuples(st.just("**"), leaves, st.integers(0, 3))
    return st.recursive(
        leaves | powers, lambda inner: st.tuples(st.sampled_from(operators), inner, inner), max_leaves=8
    )


def text_of(tree):
    match tree:
        case ("min" | "max" as name, left, right):
            return f"{name}({text_of(left)}, {text_of(right)})"
        case (symbol, left, right):
            return f"({text_of(left)} {symbol} {text_of(right)})"
    return str(tree)


def exact(tree, values):
    match tree:
        case (symbol, left, right):
            left, right = exact(left, values), exact(right, values)
            return Fraction(EXACT[symbol](left, int(right) if symbol == "**" else right))
        case str():
            return Fraction(values[tree])
    return Fraction(tree)


def size_or_none(dims, text):
    try:
        return dims.size(text)
    except OpError:
        return None


@given(trees(sorted(BOUND), ["+", "-", "*", "/", "//", "%", "min", "max"]))
def test_bound_sizes_agree_with_exact_arithmetic(tree):
    try:
        expected = exact(tree, BOUND)
    except ZeroDivisionError:
        expected = Fraction(0)
    whole = expected.denominator == 1 and 0 < expected <= 2**53
    size = size_or_none(DIMS, text_of(tree))
    assert (size.known if size else None) == (int(expected) if whole else None)


@given(trees(["seq", "batch", "a", "b"], ["+", "-", "*"]))
def test_run_time_sizes_agree_with_exact_arithmetic_once_bound(tree):
    size = size_or_none(DIMS, text_of(tree))
    assume(size is not None)
    assert size.at(**FREE) == exact(tree, BOUND | FREE)


@given(trees(["seq", "batch", "a", "b"], ["+", "-", "*"]), trees(["seq", "batch", "a", "b"], ["+", "-", "*"]))
def test_sums_and_products_of_sizes_are_those_of_their_values(left, right):
    one, two = size_or_none(DIMS, text_of(left)), size_or_none(DIMS, text_of(right))
    assume(one is not None and two is not None)
    assert (one + two).at(**FREE) == one.at(**FREE) + two.at(**FREE)
    assert (one * two).at(**FREE) == one.at(**FREE) * two.at(**FREE)
    assert one + two == two + one
    assert one * two == two * one


@given(trees(["seq", "batch", "a", "b", "c"], ["+", "-", "*", "/"]))
def test_printed_size_reads_back_to_an_equal_one(tree):
    for dims in (DIMS, FREE_DIMS):
        size = size_or_none(dims, text_of(tree))
        if size is not None and len(str(size)) <= MAX_TEXT:
            again = dims.size(str(size))
            assert again == size
            assert again.form == size.form


@given(trees(["seq", "a", "b"], ["+", "-", "*", "/", "//", "%", "min", "max"]))
def test_numbers_agree_with_exact_arithmetic(tree):
    try:
        expected = float(exact(tree, BOUND | FREE))
    except (ZeroDivisionError, OverflowError):
        assume(False)
    assume(abs(expected) < 1e12)
    assume("//" not in text_of(tree) and "%" not in text_of(tree))  # a rounding error may cross a whole number
    try:
        number = DIMS.number(text_of(tree))
    except OpError:
        assume(False)
    assert number.at(**{name: FREE[name] for name in number.free}) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(trees(["seq", "layer"], ["+", "-", "*", "/"]), st.booleans())
def test_generated_python_gives_the_same_number(tree, negative):
    text = f"-{text_of(tree)}" if negative else text_of(tree)
    expression = parse_expression(text)
    names = {"seq": 7.0, "layer": 3.0}
    try:
        expected = evaluate(expression, names)
    except (ArithmeticError, OpError):
        assume(False)
    assume(math.isfinite(expected))
    assert eval(python_text(expression, {name: name for name in names}), {"math": math, **names}) == expected


def test_generated_python_keeps_a_negative_base_together():
    number = Dims({}).number("(0 - layer) ** 2")
    assert eval(number.source({"layer": "layer"}), {"layer": 3.0}) == number.at(layer=3) == 9.0
    number = Dims({}).number("(-layer) ** 2")
    assert eval(number.source({"layer": "layer"}), {"layer": 3.0}) == number.at(layer=3) == 9.0


PARTS = "a b seq 1 2.5 0 1e9 + - * / // % ** ( ) , sqrt log min max . [ ] { } ' \" lambda : if else = _ \\ é"
WORDS = [*PARTS.split(), " ", "\n", "\0", "\ud800"]


@given(st.lists(st.sampled_from(WORDS)).map("".join) | st.text())
@example("1if 2else 3")
@example("'\\d'")
@example("1_000")
@example("(" * 150 + "1" + ")" * 150)
@example("-" * 200)
def test_random_text_raises_nothing_but_op_errors(text):
    size_or_none(DIMS, text)
    with suppress(OpError):
        DIMS.number(text)


@given(st.lists(st.sampled_from(WORDS)).map("".join))
def test_nothing_but_the_grammar_is_accepted(text):
    try:
        tree = parse_expression(text)
    except OpError:
        return
    allowed = (ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Constant, ast.operator, ast.unaryop, ast.expr_context)
    assert all(isinstance(node, allowed) for node in ast.walk(tree))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called <= {"sqrt", "log", "min", "max"}


@pytest.mark.parametrize(
    "value", [None, True, False, [4], {"a": 4}, "", "a b", "a.b", "a[0]", "a(1)", "lambda: 1", "'a'", "1_0"]
)
def test_what_is_no_expression_is_refused(value):
    for read in (DIMS.size, DIMS.number):
        with pytest.raises(OpError):
            read(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a / 2", "a / 2 is 1.5 (a = 3), not a positive whole number"),
        ("a - 3", "a - 3 is 0 (a = 3), not a positive whole number"),
        ("-4", "-4 is not a positive whole number"),
        ("2**60", "2**60 is larger than 2**53"),
        ("a ** b ** 2", "a power of a size is a whole number from 0 to 64, found b**2"),
        ("1 / 0", "division by zero"),
        ("a // (b - 16)", "division by zero"),
        ("a / (seq + 1)", "cannot divide by seq + 1, which is known only at run time"),
        ("min(a, seq)", "min needs numbers, and seq is known only at run time"),
        ("min(a)", "min takes two or more numbers, found 1"),
        ("sqrt(b)", "sqrt(b) does not give a whole number, as a size has to be"),
        ("layer + 1", "'layer' is another number in each layer, so no size can be made of it"),
        ("sequence", "no dim is called 'sequence'; did you mean 'seq'?"),
        ("width", "no dim is called 'width'; dims are batch, seq, a, b, c"),
        ("seq / 2", "seq / 2 is not a positive whole number for every seq"),
        ("b / seq", "b / seq is not a whole number for every seq"),
        ("-seq", "-seq is not a positive whole number for every seq"),
    ],
)
def test_sizes_that_cannot_be_say_why(text, told):
    with pytest.raises(OpError) as caught:
        DIMS.size(text)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    "text", ["1 / layer", "log(layer)", "sqrt(layer - 2)", "1 / (layer - 3)", "1e300 * 1e300", "1 / 0", "sqrt(-1)"]
)
def test_numbers_have_to_be_finite_in_every_layer(text):
    dims = Dims({"n_layers": Size.symbol("n_layers", 4)})
    with pytest.raises(OpError, match="has no finite value"):
        dims.number(text)


def test_a_tenth_is_a_tenth():
    assert DIMS.size("0.1 * 60 / 6 * 10").known == 10
    assert DIMS.size("8 / 3 * a").known == 8


def test_sizes_are_equal_when_their_values_are_and_print_as_they_were_written():
    head = DIMS.size("c / a")
    assert head == DIMS.size(20) == Size.constant(20)
    assert str(head) == "c/a"
    assert DIMS.size("seq + a") != DIMS.size("seq + b")


def test_a_number_of_run_time_dims_is_written_out_in_them():
    dims = Dims(DIMS.sizes | {"both": DIMS.size("batch * seq")})
    number = dims.number("1 / both")
    assert number.free == {"batch", "seq"}
    assert number.at(batch=2, seq=4) == 0.125


def test_layer_means_something_in_blocks_alone():
    with pytest.raises(OpError, match="in the blocks of a stack alone"):
        Dims({}, layered=False).number("layer + 1")

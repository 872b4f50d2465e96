"""Small arithmetic expressions: parsed by Python's grammar, checked node by node, never evaluated by Python."""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from blockgraph.errors import OpError

MAX_TEXT = 200
MAX_POWER = 64.0
MAX_NUMBER = 1e300

FUNCTIONS: Mapping[str, Callable[..., float]] = {"sqrt": math.sqrt, "log": math.log, "min": min, "max": max}

_SYMBOLS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"}
_GROUPED = re.compile(r"\b\d\w*_")  # `1_000` is a word in YAML 1.2, and one mistake away from a name


def parse_expression(text: str | int | float) -> ast.expr:
    """The syntax tree of `+ - * / // %`, bounded powers, `sqrt log min max`, names and numbers; nothing else.

    Raises `OpError` for anything that is not such an expression.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise OpError(f"expected a number or an expression such as `4 * d_model`, found {_described(text)}")
    if isinstance(text, float) and not math.isfinite(text):
        raise OpError(f"must be finite, found {text:g}")
    text = str(text).strip()
    if len(text) > MAX_TEXT:
        raise OpError(f"an expression of more than {MAX_TEXT} characters")
    tree = _parsed(text)
    _check_grammar(tree, text)
    return tree


def names_in(tree: ast.expr) -> frozenset[str]:
    """Names of the dims that an expression mentions."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)


def literal(node: ast.Constant) -> int | float:
    """The number that stands in an expression."""
    assert isinstance(node.value, int | float), ast.dump(node)
    return node.value


def evaluate(node: ast.expr, env: Mapping[str, float]) -> float:
    """The value in floating point; raises `ArithmeticError` or `ValueError` where there is none."""
    match node:
        case ast.Constant():
            return float(literal(node))
        case ast.Name(id=name):
            return env[name]
        case ast.UnaryOp(op=sign, operand=operand):
            inner = evaluate(operand, env)
            return -inner if isinstance(sign, ast.USub) else inner
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(evaluate(argument, env) for argument in arguments))
        case ast.BinOp(left=left, op=kind, right=right):
            return _ARITHMETIC[type(kind)](evaluate(left, env), evaluate(right, env))
    raise AssertionError(ast.dump(node))


def python_text(node: ast.expr, names: Mapping[str, str]) -> str:
    """Python text with float literals alone, and `names` in the place of dims."""
    match node:
        case ast.Constant():
            return repr(float(literal(node)))
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=sign, operand=operand):
            return f"({'-' if isinstance(sign, ast.USub) else '+'}{python_text(operand, names)})"
        case ast.Call(func=ast.Name(id=name), args=arguments):
            function = f"math.{name}" if name in ("sqrt", "log") else name
            return f"{function}({', '.join(python_text(argument, names) for argument in arguments)})"
        case ast.BinOp(left=left, op=kind, right=right):
            return f"({python_text(left, names)} {_SYMBOLS[type(kind)]} {python_text(right, names)})"
    raise AssertionError(ast.dump(node))


def _described(value: Any) -> str:
    words = {bool: f"'{str(value).lower()}'", type(None): "nothing", list: "a list", dict: "a mapping"}
    return words.get(type(value), f"'{value}'")


def _parsed(text: str) -> ast.expr:
    if grouped := _GROUPED.search(text):
        raise OpError(f"'{text}' is a word and not a number; digits are written without _ after '{grouped[0][:-1]}'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks about strange literals are not for the spec's author
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise OpError(f"'{text}' is not an expression such as `4 * d_model`") from None


def _check_grammar(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if abs(number) > MAX_NUMBER:
                raise OpError(f"'{text}' holds a number that is too large")
        case ast.Name():
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check_grammar(operand, text)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _SYMBOLS:
            _check_grammar(left, text)
            _check_grammar(right, text)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            _check_count(name, len(arguments))
            for argument in arguments:
                _check_grammar(argument, text)
        case _:
            raise OpError(f"'{text}' is not arithmetic: only + - * / // % **, sqrt log min max, dims and numbers")


def _check_count(name: str, count: int) -> None:
    single = name in ("sqrt", "log")
    if count != 1 if single else count < 2:
        raise OpError(f"{name} takes {'one number' if single else 'two or more numbers'}, found {count}")


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MAX_POWER:
        raise OpError(f"a power is at most {MAX_POWER:g}, found {exponent:g}")
    return math.pow(base, exponent)


_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

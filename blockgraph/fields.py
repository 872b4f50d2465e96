"""Kinds of fields that ops have: sizes, numbers with their rules, initial values."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from blockgraph.dims import LAYER, Dims, Number, Size, number_of

ONE = number_of(1.0)
LENGTHS = (1, 2**20)  # run-time sizes at which a number that depends on them is tried


@dataclass(frozen=True, slots=True)
class Init:
    """Initial values of a parameter: a named distribution or pattern and its one number."""

    kind: Literal["normal", "trunc_normal", "uniform", "constant", "unit", "identity", "one_hot"]
    number: Number


def normal(std: float) -> Init:
    """Normal values with mean 0."""
    return Init("normal", number_of(std))


def constant(value: float) -> Init:
    """One value everywhere."""
    return Init("constant", number_of(value))


def _dims(info: ValidationInfo) -> Dims:
    assert info.context is not None
    dims: Dims = info.context["dims"]
    return dims


def _size(value: Any, info: ValidationInfo) -> Size:
    size = _dims(info).size(value)
    if size.known is None:
        raise ValueError(f"is {size}, and {_listed(size.unbound)} is known only when the model runs")
    return size


def _number(value: Any, info: ValidationInfo) -> Number:
    return _dims(info).number(value)


def _init(value: Any, info: ValidationInfo) -> Init:
    """`zeros`, `ones`, a number, a distribution such as `{normal: 0.02}`, or a pattern such as `{one_hot: layer}`."""
    words = {"zeros": 0.0, "ones": 1.0}
    if isinstance(value, str) and value in words:
        return Init("constant", number_of(words[value]))
    if not isinstance(value, dict):
        return Init("constant", _settled(_number(value, info)))
    kinds = ("normal", "trunc_normal", "uniform", "constant", "identity", "one_hot")
    if len(value) != 1 or next(iter(value)) not in kinds:
        raise ValueError(f"an initial value is zeros, ones, a number or one of {', '.join(kinds)} with its number")
    ((kind, text),) = value.items()
    number = _settled(_number(text, info))
    if kind == "one_hot":
        _within(number, info, "a whole number from 0 on", lambda x: x >= 0 and x == int(x))
    elif kind != "constant":
        _within(number, info, "positive", lambda x: x > 0)
    return Init(kind, number)


def _different(names: list[str]) -> list[str]:
    """Names of the parts that an op gives."""
    for name in names:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"'{name}' is not a word of letters, digits and _ that begins with a letter")
        if names.count(name) > 1:
            raise ValueError(f"'{name}' names two parts")
    return names


SizeField = Annotated[Size, BeforeValidator(_size)]
NumberField = Annotated[Number, BeforeValidator(_number)]
InitField = Annotated[Init, BeforeValidator(_init)]
PartNames = Annotated[list[str], AfterValidator(_different)]


def limited(rule: str, holds: Callable[[float], bool]) -> AfterValidator:
    """A rule that a number has to meet: on every layer, and at short and long sequences, where it depends on them."""
    return AfterValidator(lambda number, info: _within(number, info, rule, holds))


def _within(number: Number, info: ValidationInfo, rule: str, holds: Callable[[float], bool]) -> Number:
    for names in _tried(number, _dims(info)):
        value = number.at(**names)
        if not (math.isfinite(value) and holds(value)):
            where = " at " + ", ".join(f"{name} = {n}" for name, n in names.items()) if names else ""
            raise ValueError(f"must be finite and {rule}, found {value:g}{where}")
    return number


def _tried(number: Number, dims: Dims) -> Iterator[dict[str, int]]:
    """Values for the names that a number depends on."""
    layers = dims.sizes.get("n_layers", Size.constant(1)).known or 1
    names = sorted(number.free)
    for values in product(*(range(layers) if name == LAYER else LENGTHS for name in names)):
        yield dict(zip(names, values, strict=True))


def _settled(number: Number) -> Number:
    if number.free - {LAYER}:
        raise ValueError(f"is '{number}', and {_listed(number.free - {LAYER})} is known only when the model runs")
    return number


def _plain(number: Number) -> Number:
    if number.free:
        raise ValueError(f"is one number for all layers and lengths, found '{number}'")
    return number


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


Finite = Annotated[Number, BeforeValidator(_number), limited("a number", lambda x: True)]
Positive = Annotated[Number, BeforeValidator(_number), limited("positive", lambda x: x > 0)]
Multiplier = Annotated[Positive, AfterValidator(_settled)]
Start = Annotated[NumberField, AfterValidator(_settled)]
Epsilon = Annotated[Positive, AfterValidator(_plain)]

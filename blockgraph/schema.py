"""Pydantic models filled from placed values; every complaint becomes a problem at its place."""

import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from blockgraph.errors import Place, Problems, Told, closest, near_miss
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, describe, place_of, plain


class Fields(BaseModel):
    """Fields that a text fills: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


F = TypeVar("F", bound=BaseModel)

_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a word",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def fill(
    kind: type[F],
    value: Value,
    problems: Problems,
    *,
    about: str = "",
    context: dict[str, Any] | None = None,
    known: Iterable[str] = (),
) -> F | None:
    """An instance of `kind` from `value`; None when it does not fit, with every reason added to `problems`.

    `about` opens each message (`cap (soft_cap): `); `context` reaches the validators of the fields; `known` are keys
    that the caller takes out of the mapping, for near misses.
    """
    try:
        return kind.model_validate(plain(value), context=context)
    except ValidationError as error:
        complaints = [_Complaint.of(detail, value) for detail in error.errors(include_url=False)]
        for complaint in _meant([c for c in complaints if not isinstance(c.detail.get("ctx", {}).get("error"), Told)]):
            message, hint, place = _told(kind, complaint, list(known))
            problems.add(f"{about}{message}", place, hint)
        return None


@dataclass(frozen=True)
class _Complaint:
    """One of pydantic's complaints with the value it is about; `union` is the path of the union it is a branch of.

    `wanted` is what would be right, where several branches would be.
    """

    detail: Any
    value: Value
    key: Place | None
    trail: tuple[str, ...]
    union: tuple[str, ...] | None
    wanted: str = ""

    @property
    def kind(self) -> str:
        return str(self.detail["type"])

    @staticmethod
    def of(detail: Any, root: Value) -> "_Complaint":
        """Follows pydantic's path down the placed value; steps that are not there name branches of a union."""
        value, key, union = root, None, None
        trail: tuple[str, ...] = ()
        path = detail["loc"][:-1] if detail["type"] == "missing" else detail["loc"]
        for step in path:
            if isinstance(value, Mapping) and str(step) in value.items:
                key, value = value.keys[str(step)], value.items[str(step)]
            elif isinstance(value, Sequence) and isinstance(step, int) and step < len(value.items):
                value = value.items[step]
            else:
                union = trail if union is None else union
                continue
            trail = (*trail, str(step))
        return _Complaint(detail, value, key, trail, union)


def _meant(complaints: list[_Complaint]) -> list[_Complaint]:
    """Without what follows from others: a key that is missing because it is misspelt, other branches of a union."""
    unknown = {c.trail for c in complaints if c.kind == "extra_forbidden"}
    missing = {(*c.trail, c.detail["loc"][-1]) for c in complaints if c.kind == "missing"}
    near = {(*key[:-1], closest(key[-1], [m[-1] for m in missing if m[:-1] == key[:-1]])) for key in unknown}
    rest = [c for c in complaints if c.kind != "missing" or (*c.trail, c.detail["loc"][-1]) not in near]
    unions: dict[tuple[str, ...], list[_Complaint]] = {}
    for complaint in rest:
        if complaint.union is not None:
            unions.setdefault(complaint.union, []).append(complaint)
    return [*(c for c in rest if c.union is None), *(c for union in unions.values() for c in _branch(union))]


def _branch(complaints: list[_Complaint]) -> list[_Complaint]:
    """Of a union's complaints, those about the branch that was meant: the one that went deepest."""
    deepest = max(len(complaint.trail) for complaint in complaints)
    deep = [complaint for complaint in complaints if len(complaint.trail) == deepest]
    literals = [c for c in deep if c.kind == "literal_error"]
    spelt = [c for c in literals if closest(str(plain(c.value)), _options(c))]
    others = [c for c in deep if c.kind not in _KINDS and c not in literals]
    if spelt or others:
        return spelt or others[-1:]
    words = [word for c in literals for word in _options(c)] + [_KINDS[c.kind] for c in deep if c not in literals]
    return [replace(deep[-1], wanted=" or ".join(words))]


def _told(kind: type[BaseModel], complaint: _Complaint, known: list[str]) -> tuple[str, str, Place]:
    detail, value, name = complaint.detail, complaint.value, ".".join(complaint.trail)
    about = f"{name}: " if name else ""
    match complaint.kind:
        case "extra_forbidden":
            keys = [*_known_keys(kind, complaint.trail[:-1]), *(known if len(complaint.trail) == 1 else [])]
            hint = _deeper(kind, complaint.trail) or near_miss(complaint.trail[-1], keys)
            hint = hint or (f"known are {', '.join(keys)}" if keys else "")
            return f"unknown key '{complaint.trail[-1]}'", hint, complaint.key or value.place
        case "missing":
            return f"'{detail['loc'][-1]}' is missing", "", value.place
        case "literal_error":
            options = _options(complaint)
            hint = near_miss(str(plain(value)), options) or f"known are {', '.join(options)}"
            return f"{about}{describe(value)} is not known", hint, value.place
        case "too_short":
            return f"{name} needs at least {detail['ctx']['min_length']} items", "", value.place
        case bound if bound in _BOUNDS:
            key, words = _BOUNDS[bound]
            found = describe(value).strip("'")
            return f"{name} must be {words} {detail['ctx'][key]}, found {found}", "", value.place
        case wrong if wrong in _KINDS:
            told = f"{name or 'this'} must be {complaint.wanted or _KINDS[wrong]}, found {describe(value)}"
            return told, _quoted(wrong, value), value.place
    told = str(detail["msg"]).removeprefix("Value error, ")
    return f"{about}{told}", "", place_of(told, value)


def _quoted(wrong: str, value: Value) -> str:
    written = wrong == "string_type" and isinstance(value, Scalar) and value.value is not None
    return f"in quotes it is one: '{value.raw}'" if written and isinstance(value, Scalar) else ""


def _options(complaint: _Complaint) -> list[str]:
    expected: str = complaint.detail["ctx"]["expected"]
    expected = expected.replace("True", "true").replace("False", "false")
    return expected.replace("'", "").replace(" or ", ", ").split(", ")


def _known_keys(kind: type[BaseModel], trail: Iterable[str]) -> list[str]:
    for step in trail:
        found = kind.model_fields.get(step)
        inner = _model_in(found.annotation) if found else None
        if inner is None:
            return []
        kind = inner
    return [found.alias or name for name, found in kind.model_fields.items()]


def _deeper(kind: type[BaseModel], trail: tuple[str, ...]) -> str:
    """`did you mean 'train.steps'?`, for a key that stands a level too high."""
    *around, word = trail
    sections = [] if around else _known_keys(kind, ())
    places = [f"'{section}.{word}'" for section in sections if word in _known_keys(kind, (section,))]
    return f"did you mean {' or '.join(places)}?" if places else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for arg in typing.get_args(annotation) if (found := _model_in(arg))), None)


def word(value: Value, what: str, problems: Problems) -> str | None:
    """A plain word, or None with a problem that names what was expected."""
    if isinstance(value, Scalar) and isinstance(value.value, str) and value.value:
        return value.value
    problems.add(f"{what} is a word, found {describe(value)}", value.place)
    return None

"""Pydantic models filled from placed values; every complaint becomes a problem at its place."""

import types
import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, describe, plain


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
    kind: type[F], value: Value, problems: Problems, *, about: str = "", context: dict[str, Any] | None = None
) -> F | None:
    """An instance of `kind` from `value`; None when it does not fit, with every reason added to `problems`.

    `about` opens each message (`cap (soft_cap): `); `context` reaches the validators of the fields.
    """
    try:
        return kind.model_validate(plain(value), context=context)
    except ValidationError as error:
        # A union reports every branch; the complaint about the branch that was meant goes deepest.
        for detail in _deepest(error.errors(include_url=False)):
            message, hint, place = _told(kind, detail, value)
            problems.add(f"{about}{message}", place, hint)
        return None


def _deepest(details: list[Any]) -> list[Any]:
    by_start: dict[Any, list[Any]] = {}
    for detail in details:
        by_start.setdefault(detail["loc"][:1], []).append(detail)
    kept = []
    for group in by_start.values():
        branches = {d["loc"][1] for d in group if len(d["loc"]) > 1 and isinstance(d["loc"][1], str)}
        tagged = any("[" in b or b in ("int", "float", "str", "bool", "none") for b in branches)
        kept.extend([max(group, key=lambda d: len(d["loc"]))] if tagged else group)
    return kept


def _told(kind: type[BaseModel], detail: Any, root: Value) -> tuple[str, str, Place]:
    value, key_place, trail = _walk(root, detail["loc"])
    name = ".".join(trail)
    error = detail["type"]
    if error == "extra_forbidden":
        known = _known_keys(kind, trail[:-1])
        hint = near_miss(trail[-1], known) or (f"known are {', '.join(known)}" if known else "")
        return f"unknown key '{trail[-1]}'", hint, key_place or value.place
    if error == "missing":
        return f"'{detail['loc'][-1]}' is missing", "", value.place
    if error == "literal_error":
        options = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = near_miss(str(plain(value)), options) or f"known are {', '.join(options)}"
        return f"{name}: {describe(value)} is not known", hint, value.place
    if error in _BOUNDS:
        key, words = _BOUNDS[error]
        return f"{name} must be {words} {detail['ctx'][key]}, found {describe(value).strip(chr(39))}", "", value.place
    if error in _KINDS:
        return f"{name or 'this'} must be {_KINDS[error]}, found {describe(value)}", "", value.place
    told = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {told}" if name else told, "", value.place


def _walk(root: Value, loc: tuple[int | str, ...]) -> tuple[Value, Place | None, list[str]]:
    """Follow pydantic's path down the placed value, passing over the names of union branches."""
    value, key_place, trail = root, None, []
    for step in loc:
        if isinstance(value, Mapping) and step in value.items:
            key_place, value = value.keys[str(step)], value.items[str(step)]
            trail.append(str(step))
        elif isinstance(value, Sequence) and isinstance(step, int) and step < len(value.items):
            value = value.items[step]
            trail.append(str(step))
    return value, key_place, trail


def _known_keys(kind: type[BaseModel], trail: list[str]) -> list[str]:
    for step in trail:
        found = kind.model_fields.get(step)
        inner = _model_in(found.annotation) if found else None
        if inner is None:
            return []
        kind = inner
    return [found.alias or name for name, found in kind.model_fields.items()]


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

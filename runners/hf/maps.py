"""Maps between a spec and a Hugging Face model: what each calls the same sizes, settings and weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from blockgraph.errors import Problem, Problems, SpecError, near_miss
from blockgraph.library import shipped_folder
from blockgraph.schema import Fields, fill
from blockgraph.syntax import Mapping as Placed
from blockgraph.syntax import Scalar, Value, describe, plain, read

SUFFIX = ".hf.yaml"


class Rule(Fields):
    """Where a weight of the spec comes from, if not from one tensor as it is."""

    parts: str | list[str] = Field(alias="from", description="one tensor, or several whose rows are put together")
    transpose: bool = Field(False, description="each is stored as [in, out]")
    rows: list[int | str] = Field([], description="sizes into which the rows are laid out")
    order: list[int] = Field([], description="the order of those sizes in the spec")
    axis: int = Field(0, description="the axis of the rows: 1 where the first one counts experts")
    stack: int | str | None = Field(
        None,
        description="how many lie behind each other on a first axis of their own; the last * of a name counts them",
    )
    shape: list[int | str] = Field([], description="sizes in which it is stored, where they are others than the spec's")

    @property
    def names(self) -> list[str]:
        """The tensors by name."""
        return [self.parts] if isinstance(self.parts, str) else self.parts


class Case(Fields):
    """Dims and settings that belong together, where a family has several kinds of config."""

    dims: dict[str, str | list[str | int | None]] = Field(
        {}, description="dims of the spec by key of the config; of a list the first that is there, null for the spec's"
    )
    config: dict[str, Any] = Field(
        {}, description="what the config has to say; a list gives what is all the same, null is a key that is not there"
    )


class Map(Case):
    """All that a spec and a family of models have in common."""

    spec: str = Field(description="name of the spec")
    architecture: str = Field(description="class in transformers")
    cases: list[Case] = Field([], description="alternatives, laid over `dims` and `config`")
    floats: list[str] = Field([], description="keys of dims that the config holds as real numbers")
    labels: list[str] = Field([], description="keys of dims that the config holds as a mapping with a name for each")
    write: dict[str, Any] = Field({}, description="what an exported config says besides, null included")
    prefix: str = Field("", description="what files of the model without its head leave out in front")
    weights: dict[str, str | Rule] = Field(description="tensors by the spec's name; * stands for a layer's index")
    ignore: list[str] = Field([], description="tensors of a file that no weight needs")

    def variants(self) -> list[Case]:
        """The cases, each whole."""
        return [Case(dims=self.dims | case.dims, config=self.config | case.config) for case in self.cases or [Case()]]


def shipped_maps() -> list[Map]:
    """The maps that ship with the package."""
    return [read_map(path) for path in sorted((shipped_folder() / "zoo").glob(f"*{SUFFIX}"))]


def read_map(path: Path) -> Map:
    """A map from its file; raises `SpecError` with every fault."""
    problems = Problems()
    found = fill(Map, read(path), problems)
    problems.stop_if_any()
    assert found is not None
    return found


def matching(maps: Iterable[Map], config: Placed) -> tuple[Map, dict[str, Any]]:
    """The map for a config, and the dims that it gives to the spec; raises `SpecError` with what does not fit.

    Where none fits, the reasons are those of the case that comes nearest.
    """
    kind = _found(config, "model_type")
    named = plain(kind) if kind is not None else None
    by_type = {known: [one for one in maps if one.config.get("model_type") == known] for known in _types(maps)}
    if named not in by_type:
        place = kind.place if kind is not None else config.place
        hint = near_miss(str(named), by_type) or f"known are {', '.join(sorted(by_type))}"
        told = f"no map is for the model_type '{named}'" if kind is not None else "'model_type' is missing"
        raise SpecError([Problem(told, place, hint)])
    tried = [(one, *_tried(one, case, config)) for one in by_type[named] for case in one.variants()]
    one, dims, problems = min(tried, key=lambda result: len(result[2].found))
    problems.stop_if_any()
    return one, dims


def config_of(one: Map, case: Case, dims: Mapping[str, int]) -> dict[str, Any]:
    """What config.json says of a model with these dims."""
    config: dict[str, Any] = {"architectures": [one.architecture]}
    for key, options in (one.write | case.config).items():
        value = _options(options)[0]
        if value is not None or key in one.write:
            _put(config, key, _spread(value, dims["n_layers"]))
    for dim, keys in case.dims.items():
        name = str(_keys(keys)[0])
        _put(config, name, _value(one, name, dims[dim]))
    return config


def _value(one: Map, key: str, size: int) -> Any:
    """A dim as the config holds it."""
    if key in one.labels:
        return {str(index): f"LABEL_{index}" for index in range(size)}
    return float(size) if key in one.floats else size


def _types(maps: Iterable[Map]) -> list[str]:
    return [one.config["model_type"] for one in maps]


def _tried(one: Map, case: Case, config: Placed) -> tuple[dict[str, int], Problems]:
    """The dims of a case, and why it does not fit."""
    problems = Problems()
    for key, options in case.config.items():
        found = _found(config, key)
        if not any(_same(option, found) for option in _options(options)):
            _tell(one, key, _options(options), found, config, problems)
    dims = {dim: _size(one, keys, config, problems) for dim, keys in case.dims.items()}
    return {dim: size for dim, size in dims.items() if size is not None}, problems


def _tell(one: Map, key: str, options: list[Any], found: Value | None, config: Placed, problems: Problems) -> None:
    wanted = " or ".join(dict.fromkeys("left out" if o is None else _word(_spread(o, None)) for o in options))
    if found is None:
        problems.add(f"'{key}' is missing; {one.spec} has it {wanted}", config.place)
    else:
        problems.add(f"{key} is {describe(found)}, and {one.spec} has it {wanted}", found.place)


def _size(one: Map, keys: str | list[str | int | None], config: Placed, problems: Problems) -> int | None:
    """A dim from the first key that the config has."""
    for key in _keys(keys):
        if key is None:
            return None
        if isinstance(key, int):
            return key
        found = _found(config, key)
        if found is None:
            continue
        value = len(found.items) if key in one.labels and isinstance(found, Placed) else plain(found)
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or value < 1:
            problems.add(f"{key} is {describe(found)}, not a positive whole number", found.place)
            return None
        return int(value)
    problems.add(f"'{_keys(keys)[0]}' is missing; {one.spec} needs it", config.place)
    return None


def _found(config: Placed, key: str) -> Value | None:
    """The value at a dotted key; None where it is missing or null."""
    value: Value = config
    for part in key.split("."):
        if not isinstance(value, Placed) or part not in value.items:
            return None
        value = value.items[part]
    return None if isinstance(value, Scalar) and value.value is None else value


def _same(option: Any, found: Value | None) -> bool:
    if found is None or option is None:
        return found is None and option is None
    value = plain(found)
    wanted = _spread(option, len(value)) if isinstance(value, list) else option
    return (type(value) is type(wanted) and bool(value == wanted)) or _equal_numbers(value, wanted)


def _equal_numbers(a: Any, b: Any) -> bool:
    return type(a) in (int, float) and type(b) in (int, float) and a == b


def _spread(option: Any, length: int | None) -> Any:
    """A constant; `{cycle: [...]}` is a list that repeats for as many layers as there are."""
    if not isinstance(option, dict) or set(option) != {"cycle"}:
        return option
    cycle = option["cycle"]
    return cycle if length is None else [cycle[index % len(cycle)] for index in range(length)]


def _options(options: Any) -> list[Any]:
    return options if isinstance(options, list) else [options]


def _keys(keys: str | list[str | int | None]) -> list[str | int | None]:
    return keys if isinstance(keys, list) else [keys]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for part in outer:
        config = config.setdefault(part, {})
    config[last] = value

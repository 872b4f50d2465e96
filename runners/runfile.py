"""Run file and `key=value` overrides to a checked `RunConfig` that knows where each key was written."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from blockgraph.errors import Place, Problem, Problems, SpecError
from blockgraph.schema import fill
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, describe, parse_value, read
from runners.config import RunConfig

COMMAND_LINE = Place("<command line>", 0)
OF_TEXTS = ("data", "tokenizer")  # sections whose `path` names a file


@dataclass(frozen=True)
class RunFile:
    """A checked run, and the placed text it was filled from."""

    config: RunConfig
    text: Mapping
    path: Path

    @property
    def base(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.path.parent

    def place(self, key: str) -> Place:
        """Where a dotted key's value, or a list's item, is written; the nearest key around it where it was left out."""
        value: Value = self.text
        for part in key.split("."):
            if isinstance(value, Mapping) and part in value.items:
                value = value.items[part]
            elif isinstance(value, Sequence) and part.isdecimal():
                value = value.items[int(part)]
            else:
                break
        return value.place

    def refuse(self, key: str, message: str, hint: str = "") -> SpecError:
        """An error at a key that only shows once data or model are known."""
        return SpecError([Problem(message, self.place(key), hint)])


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunFile:
    """Read a run file and lay `key=value` overrides over it; raise `SpecError` with every fault."""
    problems = Problems()
    text = read(path, problems)
    for override in overrides:
        text = _overridden(text, override)
    return checked(text, Path(path), problems)


def checked(text: Mapping, path: Path, problems: Problems | None = None) -> RunFile:
    """The run of a placed text whose paths start from the folder of `path`; raise `SpecError` with every fault.

    `problems` holds those that were found in the text before.
    """
    problems = problems or Problems()
    config = fill(RunConfig, _named(text, path), problems)
    problems.stop_if_any()
    assert config is not None
    run = RunFile(config, text, path)
    for key, message in _disagreements(config):
        problems.add(message, run.place(key))
    problems.stop_if_any()
    return run


def to_yaml(data: dict[str, Any], indent: str = "") -> str:
    """YAML 1.2 text of nested mappings; every other value stands as JSON, which YAML 1.2 contains."""
    return "".join(_line(key, value, indent) for key, value in data.items())


def _line(key: str, value: Any, indent: str) -> str:
    if isinstance(value, dict) and value:
        return f"{indent}{key}:\n{to_yaml(value, indent + '  ')}"
    return f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n"


def _named(text: Mapping, path: Path) -> Mapping:
    """The text with the file's name as the run's, where it gives none."""
    name = Scalar(path.stem, text.place, path.stem)
    return replace(text, items={"run": name} | text.items, keys={"run": text.place} | text.keys)


def _overridden(text: Mapping, override: str) -> Mapping:
    key, _, raw = override.partition("=")
    try:
        value = _told_here(parse_value(raw), key.split(".")) if raw.strip() else Scalar(None, COMMAND_LINE)
    except SpecError as error:
        faults = (Problem(f"{override}: {problem.message}", COMMAND_LINE) for problem in error.problems)
        raise SpecError(faults) from None
    return put(text, key.split("."), value, COMMAND_LINE)


def put(text: Mapping, key: list[str], value: Value, place: Place) -> Mapping:
    """The text with one value replaced, whose key stands at `place`; mappings on the way to it are made where needed.

    Raises `SpecError` when something else than a mapping is in the way.
    """
    head, *rest = key
    if rest:
        inner = text.items.get(head, Mapping({}, {}, place))
        if not isinstance(inner, Mapping):
            message = f"'{head}.{rest[0]}' cannot be set, because {head} is {describe(inner)}"
            raise SpecError([Problem(message, place)])
        value = put(inner, rest, value, place)
    keys = {head: place} | text.keys if rest else text.keys | {head: place}
    return replace(text, items=text.items | {head: value}, keys=keys)


def _told_here(value: Value, key: list[str]) -> Value:
    """The value with the command line as the place of all that is in it; paths of texts start from here."""
    match value:
        case Scalar(value=str(word)) if key[0] in OF_TEXTS and key[-1] == "path":
            return Scalar(str(Path.cwd() / word), COMMAND_LINE, value.raw)
        case Scalar():
            return replace(value, place=COMMAND_LINE)
        case Sequence():
            return Sequence(tuple(map(_told_here, value.items, repeat(key))), COMMAND_LINE)
        case Mapping():
            items = {name: _told_here(item, [*key, name]) for name, item in value.items.items()}
            return Mapping(items, dict.fromkeys(items, COMMAND_LINE), COMMAND_LINE)


def _disagreements(config: RunConfig) -> Iterable[tuple[str, str]]:
    """Keys that fit by themselves but not together, each with what is wrong."""
    schedule, steps = config.schedule, config.train.steps
    warmup, cooldown = schedule.warmup_steps(config.train.batch), schedule.cooldown_steps(steps)
    warmup_key = "schedule.warmup_samples" if schedule.warmup_samples else "schedule.warmup"
    if warmup >= steps:
        yield warmup_key, f"{warmup_key}: the warm-up takes {warmup} steps of {steps}; it must be shorter than the run"
    elif warmup + cooldown > steps:
        told = f"{warmup} steps of warm-up and {cooldown} of cool-down are more than {steps}"
        yield "schedule.cooldown", f"schedule.cooldown: {told}"
    if schedule.cooldown and schedule.decay != "wsd":
        yield "schedule.cooldown", f"schedule.cooldown belongs to decay: wsd, but decay is {schedule.decay}"

"""What a run may change between stopping and going on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blockgraph.errors import Problems
from runners.config import RunConfig
from runners.runfile import RunFile

# Keys that leave every update as it is.
FREE = ("log.", "checkpoint.", "train.shard", "train.checkpointing", "train.timeout_s")
ABSENT = object()


def refuse(run: RunFile, before: RunConfig, out: Path) -> None:
    """Raise `SpecError` with each key that alters the maths and differs from what the run was started with."""
    problems = Problems()
    for key, old, new in changes(_resolved(before), _resolved(run.config)):
        if not allowed(key, old, new, run.config):
            message = f"{key} is {_told(new)}, but {out} was started with {_told(old)}"
            problems.add(message, run.place(key), _hint(key, old, new))
    problems.stop_if_any()


def allowed(key: str, old: Any, new: Any, config: RunConfig) -> bool:
    """Whether a run goes on with this change: intervals do, more steps do where they change no learning rate."""
    longer = key == "train.steps" and new > old and config.schedule.decay == "constant"
    return longer or key.startswith(FREE)


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both; a key that one side lacks has `ABSENT` there."""
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from changes(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after


def _resolved(config: RunConfig) -> dict[str, Any]:
    """The keys of a run; a `micro_batch` of a whole batch is the default, whether it is written out or not."""
    keys, train = config.model_dump(by_alias=True), config.train
    micro_batch = None if train.micro == train.batch else train.micro
    return keys | {"train": keys["train"] | {"micro_batch": micro_batch}}


def _told(value: Any) -> str:
    return "not set" if value is ABSENT else json.dumps(_given(value))


def _given(value: Any) -> Any:
    """A value without the keys that were left out, of which a list of sources has many."""
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if inner is not None}
    return list(map(_given, value)) if isinstance(value, (list, tuple)) else value


def _hint(key: str, old: Any, new: Any) -> str:
    if key == "train.steps" and new > old:
        return "more steps need `schedule.decay: constant`, for any other decay changes every learning rate"
    return "put it back, or name another directory with --out"

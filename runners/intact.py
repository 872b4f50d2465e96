"""What a checkpoint has to hold before a run goes on from it."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from blockgraph.errors import Place, Problem, SpecError
from runners.checkpoint import FORMAT, STATE, Checkpoint

ABSENT = object()
GROUPS: dict[str, list[str]] = {"model": [""], "optim": [""]}


def refuse_state(saved: Checkpoint, facts: Mapping[str, Any]) -> None:
    """Raise `SpecError` when the state lacks an entry that `facts` has, or has one of another kind.

    An empty list stands for one of numbers, any other list for one of such entries as its first.
    A checkpoint whose files are those of its manifest may still have been changed, together with the manifest. What
    is missing is never made up, for the run would go on as another one.
    """
    found = saved.state.get("format", ABSENT)
    if found != FORMAT:
        raise _refusal(saved, f"format is {_told(found)}, and this version reads {FORMAT}")
    if fault := next(_faults("", {"format": FORMAT, "step": 0, "tensors": GROUPS, **facts}, saved.state), ""):
        raise _refusal(saved, fault)
    for group, names in saved.state["tensors"].items():
        if fault := _uneven(names, saved.tensors(group)):
            raise _refusal(saved, f"{group}: {fault}")


def refuse_tensors(saved: Checkpoint, model: Mapping[str, Tensor]) -> None:
    """Raise `SpecError` when the weights or the moments are not those of the model, in name and shape.

    A moment has the shape of its weight, or none when it counts steps.
    """
    if fault := _uneven(list(model), saved.tensors("model")):
        raise _refusal(saved, f"model: {fault}")
    for group in GROUPS:
        stored = saved.tensors(group)
        for name in stored:
            owner = name if group == "model" else name.rpartition(".")[0]
            if owner not in model:
                raise _refusal(saved, f"{group}: the tensor {name} does not belong there")
            shape = stored.shape(name)
            if shape != model[owner].shape and (group == "model" or shape):
                shapes = f"shape {list(shape)}, but the model has {list(model[owner].shape)}"
                raise _refusal(saved, f"{group}: {name} has {shapes}")


def _uneven(expected: list[str], stored: Mapping[str, Tensor]) -> str:
    missing, stray = set(map(str, expected)) - stored.keys(), stored.keys() - set(map(str, expected))
    if missing:
        return f"the tensor {min(missing)} is missing"
    return f"the tensor {min(stray)} does not belong there" if stray else ""


def _faults(path: str, expected: Any, found: Any) -> Iterator[str]:
    """Entries that are missing, too many or of another kind, by their path in the state."""
    if found is ABSENT:
        yield f"{path} is missing"
    elif isinstance(expected, dict) and isinstance(found, dict):
        for key in {**expected, **found}:
            inner = f"{path}.{key}" if path else key
            if key not in expected:
                yield f"{inner} does not belong there"
            else:
                yield from _faults(inner, expected[key], found.get(key, ABSENT))
    elif isinstance(expected, list) and isinstance(found, list):
        kind = expected[0] if expected else 0.0
        for at, entry in enumerate(found):
            yield from _faults(f"{path}[{at}]", kind, entry)
    elif not isinstance(found, _kinds(expected)) or isinstance(found, bool):
        yield f"{path} is {_told(found)}"


def _kinds(value: Any) -> tuple[type, ...]:
    """Types that an entry may have; a number that is not known yet is null."""
    return (int, float, type(None)) if value is None or isinstance(value, float) else (type(value),)


def _told(value: Any) -> str:
    return "missing" if value is ABSENT else repr(value)


def _refusal(saved: Checkpoint, fault: str) -> SpecError:
    hint = "put back what was saved, or remove this checkpoint to go on from the one before"
    return SpecError([Problem(fault, Place(str(saved.path / STATE), 0), hint)])

"""Gate R18: a checkpoint that was changed together with its manifest is refused, entry by entry, and never made up."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_case import train, trained_in, write_case

from blockgraph.errors import SpecError
from runners import checkpoint
from runners.checkpoint import Checkpoints, verify
from runners.config import Train
from runners.intact import refuse_state
from runners.watch import Watch

INPUTS = dict.fromkeys(("model", "tokenizer", "data", "lowering", "compile"), "")
FACTS = {"inputs": INPUTS, "watch": Watch(Train()).state(), "passed": [[0]]}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Run file and directory of a run that has 6 of 12 steps behind it."""
    folder = tmp_path_factory.mktemp("intact")
    with trained_in(folder):
        run = write_case(folder)
        assert train(run, folder / "run", "schedule.decay=constant", "train.steps=6") == 0
        yield run, folder / "run"


@pytest.fixture
def saved(stopped):
    return Checkpoints(stopped[1] / "checkpoints", 2).newest(pytest.fail)


def entries(state, trail=()):
    """The path of every entry."""
    for key, value in state.items():
        yield (*trail, key)
        if isinstance(value, dict):
            yield from entries(value, (*trail, key))


ENTRIES = [
    *(("format",), ("step",), ("tensors",), ("tensors", "model"), ("tensors", "optim"), ("passed",)),
    *(
        ("inputs",),
        ("inputs", "model"),
        ("inputs", "tokenizer"),
        ("inputs", "data"),
        ("inputs", "lowering"),
        ("inputs", "compile"),
    ),
    *(("watch",), ("watch", "skipped"), ("watch", "skipped_in_a_row"), ("watch", "loss_above")),
    *(("watch", "loss_above", name) for name in ("first", "smoothed", "above")),
]


SPIKES = [("watch", "spikes", name) for name in ("windows", "count", "in_a_row")]
WINDOWS = [("watch", "spikes", "windows", name) for name in ("loss", "gradient norm")]
ENTRIES += [("watch", "spikes"), *SPIKES, *WINDOWS]
ENTRIES += [(*window, part) for window in WINDOWS for part in ("values", "rejected")]


def test_the_table_has_every_entry(saved):
    assert sorted(entries(saved.state)) == sorted(ENTRIES)


def test_a_whole_state_is_not_refused(saved):
    refuse_state(saved, FACTS)


def refusal(saved, trail, act):
    """What is told when one entry of the state was changed."""
    state = json.loads(json.dumps(saved.state))
    inner = state
    for key in trail[:-1]:
        inner = inner[key]
    act(inner, trail[-1])
    with pytest.raises(SpecError) as error:
        refuse_state(replace(saved, state=state), FACTS)
    [told] = str(error.value).splitlines()
    assert told.startswith(f"{saved.path}/state.json: error: ")
    assert told.endswith("; put back what was saved, or remove this checkpoint to go on from the one before")
    return told.removeprefix(f"{saved.path}/state.json: error: ")


@pytest.mark.parametrize("trail", ENTRIES, ids=".".join)
def test_a_missing_entry_is_refused_by_name(saved, trail):
    told = refusal(saved, trail, lambda state, key: state.pop(key))
    assert told.startswith(f"{'.'.join(trail)} is missing" + (", and" if trail == ("format",) else "; put"))


@pytest.mark.parametrize("trail", ENTRIES, ids=".".join)
@pytest.mark.parametrize("value", [{"days": 7}, [["x"]], True], ids=str)
def test_an_entry_of_another_kind_is_refused_by_name(saved, trail, value):
    told = refusal(saved, trail, lambda state, key: state.update({key: value}))
    assert told.startswith(".".join(trail))


@pytest.mark.parametrize("trail", [trail for trail in ENTRIES if len(trail) < 4], ids=".".join)
def test_an_entry_that_does_not_belong_is_refused_by_name(saved, trail):
    told = refusal(saved, (*trail[:-1], "more"), lambda state, key: state.update({key: 1}))
    assert told.startswith(".".join((*trail[:-1], "more does not belong there; put")))


@pytest.fixture
def changed(tmp_path, stopped):
    """Change the newest checkpoint, hash it anew, and go on from it."""
    run, whole = stopped
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    path = out / "checkpoints" / "step-00000006"

    def go_on(change):
        change(path)
        files = sorted(file for file in path.iterdir() if file.name != "manifest.json")
        (path / "manifest.json").write_text(json.dumps({file.name: checkpoint._facts(file) for file in files}))
        return train(run, out, "schedule.decay=constant")

    return go_on, path


def without(*trail):
    def change(path):
        state = json.loads((path / "state.json").read_text())
        inner = state
        for key in trail[:-1]:
            inner = inner[key]
        del inner[trail[-1]]
        (path / "state.json").write_text(json.dumps(state))

    return change


def test_a_run_does_not_go_on_from_a_state_that_lacks_an_entry(changed, capfd):
    go_on, path = changed
    assert go_on(without("watch", "skipped")) == 1
    hint = "put back what was saved, or remove this checkpoint to go on from the one before"
    assert capfd.readouterr().err == f"{path}/state.json: error: watch.skipped is missing; {hint}\n"
    assert verify(path) == ""


def test_a_state_without_its_step_is_passed_over(changed, capfd):
    go_on, path = changed
    assert go_on(without("step")) == 0
    assert capfd.readouterr().err.startswith(f"warning: {path} is damaged and passed over: it holds no step")


def missing(tensors, name):
    del tensors[name]
    return f"the tensor {name} is missing"


def stray(tensors, name):
    tensors[f"{name}.old"] = tensors[name].clone()
    return f"the tensor {name}.old does not belong there"


def renamed(tensors, name):
    tensors[f"{name}.old"] = tensors.pop(name)
    return f"the tensor {name} is missing"


def longer(tensors, name):
    shape, more = list(tensors[name].shape), 2 * len(tensors[name])
    tensors[name] = torch.cat([tensors[name], tensors[name]])
    return f"{name} has shape {[more, *shape[1:]]}, but the model has {shape}"


@pytest.mark.parametrize("group", ["model", "optim"])
@pytest.mark.parametrize("change", [missing, stray, renamed, longer])
def test_a_run_does_not_go_on_from_other_tensors(changed, capfd, group, change):
    go_on, path = changed
    told = []

    def act(path):
        tensors = load_file(path / f"{group}.safetensors")
        told.append(change(tensors, next(name for name, value in sorted(tensors.items()) if value.dim())))
        save_file(tensors, path / f"{group}.safetensors")

    assert go_on(act) == 1
    assert capfd.readouterr().err.startswith(f"{path}/state.json: error: {group}: {told[0]}; put")


def test_a_checkpoint_of_another_format_is_refused_with_both(saved):
    told = refusal(saved, ("format",), lambda state, key: state.update({key: 1}))
    assert told.startswith("format is 1, and this version reads 2; put")

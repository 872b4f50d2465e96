"""Rows of a run in TensorBoard and Weights & Biases, with stand-ins for the two packages."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from train_case import series, train, trained_in, write_case


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sinks")
    with trained_in(folder):
        yield write_case(folder)


def test_tensorboard_gets_every_number_of_every_row(tmp_path, tiny, monkeypatch):
    written, module = [], ModuleType("tensorboardX")

    class SummaryWriter:
        def __init__(self, logdir):
            written.append(logdir)

        def add_scalar(self, name, value, step):
            written.append((step, name, value))

        def close(self):
            written.append("closed")

    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    assert train(tiny, tmp_path / "run", "log.sinks=[tensorboard]") == 0
    folder, *scalars, closed = written
    assert (folder, closed) == (str(tmp_path / "run" / "tensorboard"), "closed")
    told = {(row["step"], key, value) for row in series(tmp_path / "run") for key, value in row.items()}
    assert {found for found in scalars if found[1] != "tokens_per_s"} == {row for row in told if row[1] != "step"}


def test_weights_and_biases_goes_on_under_the_same_id(tmp_path, tiny, monkeypatch):
    begun, logged, module = [], [], ModuleType("wandb")

    def init(**named):
        begun.append(named)
        return SimpleNamespace(
            log=lambda row, step: logged.append((step, row)), finish=lambda: logged.append("finished")
        )

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    more = ("log.sinks=[wandb]", "schedule.decay=constant")
    assert train(tiny, tmp_path / "run", *more, "train.steps=6") == 0
    assert train(tiny, tmp_path / "run", *more) == 0
    first, second = begun
    assert (first["name"], first["resume"], first["dir"]) == ("tiny", "allow", str(tmp_path / "run"))
    assert first["config"]["optim"]["lr"] == 3e-3
    assert first["id"] == second["id"]
    assert [entry if entry == "finished" else entry[0] for entry in logged] == [
        *range(1, 7), "finished", *range(7, 13), "finished",
    ]  # fmt: skip
    assert logged[0][1]["loss"] == series(tmp_path / "run")[0]["loss"]


@pytest.mark.parametrize(("sink", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_one_line_before_anything_is_made(tmp_path, tiny, monkeypatch, capfd, sink, package):
    monkeypatch.setattr("runners.sinks.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, package, raising=False)
    assert train(tiny, tmp_path / "run", f"log.sinks=[{sink}]") == 1
    told = f"log.sinks: {sink} needs the package {package}, which is not installed; pip install {package}"
    assert capfd.readouterr().err == f"<command line>: error: {told}\n"
    assert not list(tmp_path.iterdir())

"""Where the rows of a run go besides `metrics.jsonl`, each by a package of its own that is optional."""

import hashlib
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from runners.rundir import RunDir
from runners.runfile import RunFile

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Sink(Protocol):
    """Takes the rows of a run."""

    def add(self, row: dict[str, Any]) -> None:
        """Take a row of the metrics; its `step` says where it belongs."""

    def close(self) -> None:
        """Let go of what is open."""


class TensorBoard:
    """Event files in `tensorboard/` of the run directory, written by tensorboardX."""

    def __init__(self, package: Any, run: RunFile, directory: RunDir):
        self._writer = package.SummaryWriter(logdir=str(directory.path / "tensorboard"))

    def add(self, row: dict[str, Any]) -> None:
        """One scalar for each number of the row."""
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases with the name of this one, which goes on under the same id."""

    def __init__(self, package: Any, run: RunFile, directory: RunDir):
        self._run = package.init(
            project="blockgraph", name=run.config.run, id=_identity(directory.path), resume="allow",
            dir=str(directory.path),
            config=run.config.model_dump(),
        )  # fmt: skip

    def add(self, row: dict[str, Any]) -> None:
        """The numbers of the row, at its step."""
        self._run.log(_numbers(row), step=row["step"])

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


SINKS: dict[str, Callable[[Any, RunFile, RunDir], Sink]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def require(run: RunFile) -> None:
    """Raise `SpecError` when the package of one of `log.sinks` is not installed."""
    for name in run.config.log.sinks:
        package = PACKAGES[name]
        if package not in sys.modules and find_spec(package) is None:
            message = f"log.sinks: {name} needs the package {package}, which is not installed"
            raise run.refuse("log.sinks", message, f"pip install {package}")


def opened(run: RunFile, directory: RunDir) -> list[Sink]:
    """The sinks of `log.sinks`, ready to take rows."""
    return [SINKS[name](import_module(PACKAGES[name]), run, directory) for name in run.config.log.sinks]


def _identity(path: Path) -> str:
    """The same for every start in a directory, and another one for a directory made anew."""
    here = f"{socket.gethostname()}:{path.absolute()}:{path.stat().st_ino}"
    return hashlib.blake2b(here.encode(), digest_size=8).hexdigest()


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step" and isinstance(value, int | float)}

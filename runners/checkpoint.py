"""Checkpoints: directories that are complete, proven by a manifest, and execute nothing when read."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from runners.cache import file_digest
from runners.files import sync

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the step it was taken after, and what it holds."""

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> Tensors:
        """The tensors saved under `name`, on the CPU."""
        return load_file(self.path / f"{name}.safetensors")


class Checkpoints:
    """The directory `checkpoints/` of a run, of which the newest `keep` stay.

    A checkpoint is written under another name and renamed when all of it is on the disk; it is removed the same way,
    so what is called `step-N` is complete. Anything else in the directory is a leftover and is ignored.
    """

    def __init__(self, path: Path, keep: int):
        self.path, self.keep = path, keep

    def require(self, size: int) -> None:
        """Raise `OSError` when the disk has no room for a checkpoint of `size` bytes."""
        free = shutil.disk_usage(self.path.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, f"a checkpoint takes {size:,} bytes, but {free:,} are free", str(self.path))

    def save(self, step: int, tensors: dict[str, Tensors], state: dict[str, Any]) -> Path:
        """Write the state after `step`, then remove what is older than `keep`; raise `OSError` where it cannot."""
        final = self.path / _name(step)
        beside = self._leftover(final)
        try:
            beside.mkdir(parents=True)
            _write(beside, tensors, {"format": FORMAT, "step": step} | state)
            os.rename(beside, final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        sync(self.path)
        for old in self._steps()[self.keep :]:
            self._remove(old)
        return final

    def newest(self, complain: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that verifies; `complain` is told of each damaged one, which is set aside."""
        self._clean()
        for path in self._steps():
            fault = verify(path)
            if not fault:
                state = json.loads((path / STATE).read_bytes())
                return Checkpoint(path, state["step"], state)
            aside = self._leftover(path, ".damaged")
            os.rename(path, aside)
            complain(f"{path} is damaged and passed over: {fault}; it is kept as {aside.name}")
        return None

    def _steps(self) -> list[Path]:
        """Checkpoints, the newest first."""
        return sorted(self.path.glob("step-" + "[0-9]" * 8), reverse=True)

    def _leftover(self, path: Path, suffix: str = ".tmp") -> Path:
        """A name beside `path` that is not taken."""
        return next(name for n in range(10_000) if not (name := path.with_name(f"{path.name}{suffix}{n}")).exists())

    def _remove(self, path: Path) -> None:
        leftover = self._leftover(path)
        os.rename(path, leftover)
        shutil.rmtree(leftover)

    def _clean(self) -> None:
        for leftover in self.path.glob("step-*.tmp*"):
            shutil.rmtree(leftover)


def verify(path: Path) -> str:
    """What is wrong with a checkpoint, or nothing: its files are those of the manifest, in size and sha256."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        stray = {file.name for file in path.iterdir()} - {MANIFEST} - manifest.keys()
        faults = [f"{MANIFEST} does not list {name}" for name in sorted(stray)]
        fault = next(filter(None, (*faults, *(_fault(path / name, *facts) for name, facts in manifest.items()))), "")
        return fault or _step_fault(path)
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError, AttributeError):
        return f"{MANIFEST} is not what was written"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _write(path: Path, tensors: dict[str, Tensors], state: dict[str, Any]) -> None:
    """Files, then the manifest that lists them, all of it on the disk."""
    for name, group in tensors.items():
        try:
            save_file({key: value.contiguous() for key, value in group.items()}, path / f"{name}.safetensors")
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error
    (path / STATE).write_text(json.dumps(state))
    files = sorted(path.iterdir())
    (path / MANIFEST).write_text(json.dumps({file.name: _facts(file) for file in files}))
    for file in (*files, path / MANIFEST, path):
        sync(file)


def _facts(file: Path) -> list[int | str]:
    return [file.stat().st_size, file_digest(file)]


def _step_fault(path: Path) -> str:
    step = json.loads((path / STATE).read_bytes())["step"]
    return "" if _name(step) == path.name else f"it holds step {step}"


def _fault(file: Path, size: int, digest: str) -> str:
    found = file.stat().st_size
    if found != size:
        return f"{file.name} has {found} bytes of {size}"
    return "" if _facts(file)[1] == digest else f"{file.name} does not have the sha256 of the manifest"

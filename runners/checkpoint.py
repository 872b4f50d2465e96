"""Checkpoints: directories that are complete, proven by a manifest, and execute nothing when read."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from blockgraph.files import sync
from runners.cache import file_digest
from runners.stored import Stored

FORMAT = 2
MANIFEST = "manifest.json"
STATE = "state.json"
POLL_SECONDS = 0.02
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the step it was taken after, and what it holds."""

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> Stored:
        """The tensors saved under `name`."""
        return Stored(sorted(self.path.glob(f"{name}*.safetensors")))


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

    def save(
        self,
        step: int,
        tensors: dict[str, Tensors],
        state: dict[str, Any],
        expected: Sequence[str] = (),
        closed: Event | None = None,
    ) -> Path:
        """Write the state after `step`, then remove what is older than `keep`; raise `OSError` where it cannot.

        `expected` are files of tensors that other processes `deposit`; they are waited for until `closed` is set.
        """
        final = self.path / _name(step)
        beside = self._leftover(final)
        try:
            beside.mkdir(parents=True)
            _write_tensors(beside, tensors)
            for name in expected:
                os.rename(_awaited(self._parts(step) / f"{name}.safetensors", closed), beside / f"{name}.safetensors")
            names = {_group(name): sorted(group) for name, group in tensors.items()}
            _seal(beside, {"format": FORMAT, "step": step, "tensors": names} | state)
            os.rename(beside, final)
        finally:
            for leftover in (beside, self._parts(step)):
                shutil.rmtree(leftover, ignore_errors=True)
        sync(self.path)
        for old in self._steps()[self.keep :]:
            self._remove(old)
        return final

    def deposit(self, step: int, tensors: dict[str, Tensors]) -> None:
        """Write this process's pieces of the state after `step`, for the first process to take up."""
        parts = self._parts(step)
        for name, group in tensors.items():
            beside = parts / f".{name}"
            beside.mkdir(parents=True)
            _write_tensors(beside, {name: group})
            os.rename(beside / f"{name}.safetensors", parts / f"{name}.safetensors")

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step, which another process has verified."""
        path = self.path / _name(step)
        return Checkpoint(path, step, json.loads((path / STATE).read_bytes()))

    def newest(self, complain: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that verifies; `complain` is told of each damaged one, which is set aside."""
        return self._first_good(self._steps(), complain)

    def back_to(self, step: int, complain: Callable[[str], None]) -> Checkpoint | None:
        """The newest good checkpoint of at most `step`, or else the oldest good one; those after it are removed."""
        after = [path for path in self._steps() if path.name > _name(step)]
        found = self._first_good([*self._steps()[len(after) :], *reversed(after)], complain)
        for path in self._steps():
            if found and path.name > found.path.name:
                self._remove(path)
        return found

    def peek(self, complain: Callable[[str], None] = lambda fault: None) -> Checkpoint | None:
        """The newest checkpoint that verifies; nothing is moved, for a run may be writing here, and removing too."""
        for path in self._steps():
            fault = verify(path)
            if not fault:
                return self.at(_step(path))
            if path.is_dir():
                complain(f"{path} is damaged and passed over: {fault}")
        return None

    def _first_good(self, paths: list[Path], complain: Callable[[str], None]) -> Checkpoint | None:
        """The first checkpoint of these that verifies; damaged ones before it are set aside."""
        self._clean()
        for path in paths:
            fault = verify(path)
            if not fault:
                return self.at(_step(path))
            aside = self._leftover(path, ".damaged")
            os.rename(path, aside)
            complain(f"{path} is damaged and passed over: {fault}; it is kept as {aside.name}")
        return None

    def _steps(self) -> list[Path]:
        """Checkpoints, the newest first."""
        return sorted(self.path.glob("step-" + "[0-9]" * 8), reverse=True)

    def _parts(self, step: int) -> Path:
        """Where the other processes put their pieces; a leftover like any other once they are taken up."""
        return self.path / f"{_name(step)}.tmp-parts"

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


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def piece_name(name: str, piece: int, pieces: int) -> str:
    """Name of a file that holds one of the pieces that a state is cut into; they sort in their order."""
    return f"{name}-{piece + 1:05d}-of-{pieces:05d}"


def _group(name: str) -> str:
    """The name of a file without that of its piece."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", name)


def _write_tensors(path: Path, tensors: dict[str, Tensors]) -> None:
    """A file for each group, on the disk."""
    for name, group in tensors.items():
        file = path / f"{name}.safetensors"
        try:
            save_file({key: value.contiguous() for key, value in group.items()}, file)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error
        sync(file)


def _awaited(file: Path, closed: Event | None) -> Path:
    """The file of another process once it is there; raise `OSError` when it will not come."""
    while not file.exists():
        if closed and closed.wait(POLL_SECONDS):
            raise OSError(errno.EIO, "the run ended before this piece of the checkpoint was written", str(file))
    return file


def _seal(path: Path, state: dict[str, Any]) -> None:
    """The state, then the manifest that lists all files, all of it on the disk."""
    (path / STATE).write_text(json.dumps(state))
    files = sorted(path.iterdir())
    (path / MANIFEST).write_text(json.dumps({file.name: _facts(file) for file in files}))
    for file in (path / STATE, path / MANIFEST, path):
        sync(file)


def _facts(file: Path) -> list[int | str]:
    return [file.stat().st_size, file_digest(file)]


def _step_fault(path: Path) -> str:
    step = json.loads((path / STATE).read_bytes()).get("step", "")
    if not isinstance(step, int):
        return "it holds no step"
    return "" if _name(step) == path.name else f"it holds step {step}"


def _fault(file: Path, size: int, digest: str) -> str:
    found = file.stat().st_size
    if found != size:
        return f"{file.name} has {found} bytes of {size}"
    return "" if _facts(file)[1] == digest else f"{file.name} does not have the sha256 of the manifest"

"""Gate R8: a disk that fills up ends a run with 74 and one line, and costs nothing that was saved."""

import subprocess

import pytest
from conftest import LONG
from forked import Child
from train_case import assert_same

from runners.checkpoint import Checkpoints, verify

PAGE = 4096


@pytest.fixture
def disk(tmp_path):
    """Make a small disk of a size in bytes, or give it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size, how="mount"):
        options = f"remount,size={size}" if how == "remount" else f"size={size}"
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        return folder

    yield sized
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def used(out):
    return sum(-(-file.stat().st_size // PAGE) * PAGE for file in out.rglob("*") if file.is_file())


@pytest.mark.parametrize("part", [0.5, 0.9, *(pytest.param(n / 16, marks=pytest.mark.slow) for n in range(1, 21))])
def test_a_full_disk_costs_nothing_that_was_saved(tmp_path, tiny, straight, disk, part):
    size = int(used(straight) * part) // PAGE * PAGE
    out = disk(size) / "run"
    child = Child(tiny, out, *LONG, log="log")
    code = child.wait()
    assert code in (0, 74), child.told
    found = sorted(out.glob("checkpoints/step-????????"))
    assert [verify(path) for path in found] == [""] * len(found)
    kept = Checkpoints(out / "checkpoints", 2).peek()
    if code:
        assert child.told.splitlines()[-1].startswith(f"{out}")
        assert "what was saved before stands" in child.told.splitlines()[-1]
    print(f"\nR8: {size:>9,} bytes: exit {code}, {len(found)} checkpoints, newest {kept.step if kept else 'none'}")
    disk(2**26, "remount")
    again = Child(tiny, out, *LONG)
    assert again.wait() == 0, again.told
    assert_same(out, straight)

"""Gates R6 and R13: every damage to a checkpoint is noticed, and a log cut anywhere is made whole."""

import json
import os
import random
import shutil

import pytest

from runners.checkpoint import Checkpoints
from runners.metrics import Metrics

FILES = ("manifest.json", "model.safetensors", "optim.safetensors", "state.json")


def flip(draw, file):
    data = bytearray(file.read_bytes())
    bit = draw.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def truncate(draw, file):
    os.truncate(file, draw.randrange(file.stat().st_size))


def extend(draw, file):
    with file.open("ab") as opened:
        opened.write(draw.randbytes(draw.randint(1, 64)))


def zero_page(draw, file):
    """A page of 4 KiB that was never written; only where the data are not zero there already."""
    data = file.read_bytes()
    starts = [start for start in range(0, len(data), 4096) if any(data[start : start + 4096])]
    start = draw.choice(starts)
    page = bytes(len(data[start : start + 4096]))
    file.write_bytes(data[:start] + page + data[start + 4096 :])


def remove(draw, file):
    file.unlink()


def older(draw, file):
    """The file of the checkpoint before, as a stale cache would give it."""
    shutil.copy(file.parent.with_name("step-00000055") / file.name, file)


def swap(draw, file):
    """Two files of a checkpoint under each other's name."""
    other = file.with_name(draw.choice([name for name in FILES if name != file.name]))
    kept = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(kept)


DAMAGES = (flip, truncate, extend, zero_page, remove, older, swap)


@pytest.mark.parametrize("count", [35, pytest.param(500, marks=pytest.mark.slow)])
def test_every_damage_is_noticed_and_the_checkpoint_before_is_used(tmp_path, straight, count):
    draw, seen = random.Random(count), dict.fromkeys((damage.__name__ for damage in DAMAGES), 0)
    for number in range(count):
        folder, told = tmp_path / f"{number}", []
        shutil.copytree(straight / "checkpoints", folder)
        damage, name = DAMAGES[number % len(DAMAGES)], draw.choice(FILES)
        damage(draw, folder / "step-00000060" / name)
        assert Checkpoints(folder, 2).peek().step == 55
        assert Checkpoints(folder, 2).newest(told.append).step == 55, f"{damage.__name__} of {name}"
        assert len(told) == 1
        assert "step-00000060 is damaged and passed over: " in told[0]
        seen[damage.__name__] += 1
        shutil.rmtree(folder)
    kinds = ", ".join(f"{name} {found}" for name, found in seen.items())
    print(f"\nR6: {count} of {count} damaged checkpoints noticed ({kinds}); the one before was used each time")


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_a_log_cut_at_a_byte_of_its_last_three_lines_is_made_whole(tmp_path, straight, stride):
    whole = (straight / "metrics.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    cuts = range(len(whole) - sum(map(len, lines[-3:])), len(whole) + 1, stride)
    for cut in cuts:
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(whole[:cut])
        resumed = Metrics(path, 57)
        for line in lines[57:]:
            resumed.append(json.loads(line))
        resumed.close()
        assert path.read_bytes() == whole
    print(f"\nR13: cut at each of {len(cuts)} bytes, every step stands in the log once")

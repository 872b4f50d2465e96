"""Gate R7: a process that ends between any two calls to the file system of a save leaves a good newest checkpoint."""

import os
import shutil
import sys

import pytest
import torch

from blockgraph import files
from runners import checkpoint
from runners.checkpoint import Checkpoints, piece_name, verify

ENDED = 9
CALLS = ("open", "os.", "shutil.", "torn ")  # what Python tells of before it asks the file system


def tensors(step):
    draw = torch.Generator().manual_seed(step)
    return {"model": {"w": torch.randn(5, 3, generator=draw)}, "optim": {"w.step": torch.tensor(float(step))}}


def in_pieces(path):
    """A save of which another process has written a piece."""
    made, second = Checkpoints(path, 2), tensors(9)
    names = {name: piece_name(name, 0, 2) for name in second}
    others = {name: piece_name(name, 1, 2) for name in second}
    made.deposit(9, {others["model"]: second["model"], others["optim"]: {}})
    made.save(9, {names[name]: second[name] for name in second}, {}, list(others.values()))


SAVES = {"whole": lambda path: Checkpoints(path, 2).save(9, tensors(9), {}), "in pieces": in_pieces}


def forked(act, number):
    """Act in a process that ends before its call number `number`; whether it came to its end, and the last call."""
    pipe, told = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        with os.fdopen(pipe, "rb") as said:
            last = said.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), last
    calls = iter(range(1, number + 1))

    def count(event, _):
        if event.startswith(CALLS) and next(calls) == number:
            os.write(told, event.encode())
            os._exit(ENDED)

    real = checkpoint.save_file

    def torn(group, path):
        sys.audit("torn file", str(path))
        real(group, path)
        os.truncate(path, os.path.getsize(path) // 2)
        sys.audit("torn file", str(path))
        real(group, path)

    checkpoint.save_file = torn
    sys.addaudithook(count)
    try:
        act()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("save", SAVES)
def test_a_save_that_ends_before_any_of_its_calls_leaves_a_good_newest_checkpoint(tmp_path, save):
    base, number, code, seen = tmp_path / "base", 0, ENDED, []
    for step in (3, 6):
        Checkpoints(base, 2).save(step, tensors(step), {})
    while code == ENDED:
        number += 1
        path = tmp_path / f"{number}"
        shutil.copytree(base, path)
        code, call = forked(lambda path=path: SAVES[save](path), number)
        seen.append(call)
        visible = sorted(path.glob("step-????????"))
        assert [verify(each) for each in visible] == [""] * len(visible), f"call {number}, {call}"
        newest = Checkpoints(path, 2).newest(pytest.fail)
        assert newest.step in ((6, 9) if code else (9,)), f"call {number}, {call}"
        torch.testing.assert_close(dict(newest.tensors("optim")), tensors(newest.step)["optim"], rtol=0, atol=0)
        Checkpoints(path, 2).save(12, tensors(12), {})
        assert sorted(each.name for each in path.iterdir()) == [f"step-{step:08d}" for step in (newest.step, 12)]
        shutil.rmtree(path)
    assert code == 0
    assert {"os.mkdir", "os.rename", "os.rmdir", "torn file", "open"} <= set(seen)
    print(
        f"\nR7: a save {save} ended before each of {number - 1} calls; the newest visible checkpoint was good each time"
    )


def test_a_file_written_whole_is_old_or_new_before_each_call(tmp_path):
    number, code, found = 0, ENDED, set()
    while code == ENDED:
        number += 1
        path = tmp_path / f"{number}" / "status.json"
        path.parent.mkdir()
        path.write_text("old")
        code, _ = forked(lambda path=path: files.save(path, "new"), number)
        found.add(path.read_text())
    assert (code, found) == (0, {"old", "new"})

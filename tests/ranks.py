"""Runs on several gloo processes, which are started once for many runs; as a program, all ten blocks on 1, 2 and 4."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from train_case import series, train, write_case

from blockgraph.kernels.base import full
from runners import saver, speed, world
from runners.trainer import Trainer

LIMIT = 600.0  # seconds after which the processes are killed
BLOCKS = (
    *("baseline", "soft_temp", "soft_cap", "soft_clip", "sigma_reparam"),
    *("layer_scale", "qk_norm", "qk_norm_cap", "qkv_norm", "qk_fc_norm"),
)


@dataclass
class Job:
    """A run in a directory; `stop` is the step before which the last process is sent SIGTERM.

    `pieces`: every process writes its own part of the checkpoints. `count`: messages of the steps are counted.
    `around`: what each process is in during the run, given its rank; a function of a module, for it is sent there.
    """

    out: Path
    overrides: tuple[str, ...] = ()
    stop: int = 0
    pieces: bool = False
    count: bool = False
    around: Callable[[int], AbstractContextManager[None]] | None = None


def on_ranks(size: int, run: Path, jobs: list[Job], limit: float = LIMIT) -> None:
    """Do the jobs, one after the other, on `size` processes."""
    given = (size, run, jobs, _ports(len(jobs)))
    _forking()
    context = mp.start_processes(_work, given, size, join=False, start_method="forkserver")
    end = time.monotonic() + limit
    try:
        while not context.join(timeout=0.2):
            assert time.monotonic() < end, f"the processes were not done after {limit:g} s"
    finally:
        for process in context.processes:
            process.kill()


def codes_of(size: int, run: Path, job: Job, limit: float) -> list[int | None]:
    """Exit codes of the processes of a job, none of which is ended because another one was."""
    context, ports = _forking(), _ports(1)
    processes = [context.Process(target=_work, args=(rank, size, run, [job], ports)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(limit)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def _forking() -> ForkServerContext:
    """Processes forked from one that has imported this file and no more, which takes seconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["ranks", "runners.session", "torch._dynamo"])
    return context


def _ports(count: int) -> list[int]:
    """Ports that nobody uses, a fresh one for each process group.

    They lie below those that the system gives to connections on their way out, gloo's own among them, which would
    take a free port again before its turn comes.
    """
    tried = iter(range(10_000 + os.getpid() % 500 * 40, 32_000))
    return [next(port for port in tried if _free(port)) for _ in range(count)]


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _work(rank: int, size: int, run: Path, jobs: list[Job], ports: list[int]) -> None:
    torch.set_num_threads(1)
    speed.PEAK_SECONDS = 0.0
    step, whole, send = Trainer.step, saver.WHOLE_BYTES, world.dist.all_reduce
    for job, port in zip(jobs, ports, strict=True):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
        calls: list[Any] = []
        Trainer.step = _stopping(step, job.stop) if rank == size - 1 else step
        saver.WHOLE_BYTES = 0 if job.pieces else whole
        world.dist.all_reduce = _counting(send, calls) if job.count else send
        with job.around(rank) if job.around else nullcontext():
            code = train(run, job.out, *job.overrides)
        assert code == (75 if job.stop else 0), f"exit code {code} of {job} on process {rank}"
        if rank == 0:
            (job.out / "calls.json").write_text(json.dumps(len(calls)))


def _stopping(step: Callable[..., Any], at: int) -> Callable[..., Any]:
    def stopped(self: Trainer, number: int, *rest: Any) -> Any:
        if number == at:
            os.kill(os.getpid(), 15)
        return step(self, number, *rest)

    return stopped


def _counting(send: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def sent(*given: Any, **named: Any) -> Any:
        calls.append(given)
        return send(*given, **named)

    return sent


def apart(out: Path, other: Path, key: str = "loss") -> float:
    """The greatest difference of two runs in a column of the metrics."""
    pairs = zip(series(out), series(other), strict=True)
    return max(abs(a[key] - b[key]) for a, b in pairs)


@contextmanager
def restored_exactly(rank: int, out: Path) -> Iterator[None]:
    """In the block, what a process takes up from a checkpoint is, put together, what the checkpoint holds."""
    restore = Trainer.restore

    def checked(self: Trainer, model: Any, moments: Any) -> None:
        restore(self, model, moments)
        for group, stored in (("model", model), ("optim", moments)):
            found = {name: full(value.detach()) for name, value in self.tensors()[group].items()}
            torch.testing.assert_close(found, dict(stored), rtol=0, atol=0)
        out.with_name(f"{out.name}.checked-{rank}").touch()

    Trainer.restore = checked
    try:
        yield
    finally:
        Trainer.restore = restore


def main(folder: Path) -> None:
    """Print how far the losses of each block are apart after 20 steps, against one process."""
    folder.mkdir(parents=True)
    os.environ["BLOCKGRAPH_CACHE"] = str(folder / "cache")
    run, steps = write_case(folder), ("train.steps=20", "train.batch=8")
    cases = {
        (block, precision): (*steps, f"set.block={block}", f"train.precision={precision}")
        for block in BLOCKS
        for precision in ("fp32", "bf16")
    }
    worlds = {"2": (2, ()), "4": (4, ()), "2x2": (4, ("train.shard=2",))}
    for case, overrides in cases.items():
        assert train(run, folder / "1" / "-".join(case), *overrides) == 0
    for name, (size, more) in worlds.items():
        jobs = [Job(folder / name / "-".join(case), overrides + more) for case, overrides in cases.items()]
        on_ranks(size, run, jobs, limit=3600.0)
    for case in cases:
        found = (apart(folder / name / "-".join(case), folder / "1" / "-".join(case)) for name in worlds)
        print(
            f"{case[0]:<14}{case[1]:<6}", *(f"{name}: {value:.1e}" for name, value in zip(worlds, found, strict=True))
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

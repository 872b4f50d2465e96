"""What the cells of a study cost: parameters, tokens, arithmetic and time."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapreplace
from pathlib import Path

import blockgraph
from runners import study as reader
from runners.devices import DEVICES
from runners.flops import step_flops
from runners.plan import UTILISATION
from runners.progress import clock
from runners.studies.file import Planned, StudyFile
from runners.studies.fork import forked
from runners.studies.local import cores, prepared

LOADED = 1.2  # times the processor time, from which on the clock's is told
TICK = 1e-6  # seconds that a measurement takes at least
STEPS = 3  # that are timed, after one that warms up
HEAD = ("cell", "parameters", "tokens", "time", "state")


@dataclass(frozen=True)
class Times:
    """Seconds that a run takes: before its first step, for a step, and for a validation.

    With one thread they are processor time, which other programs do not lengthen; by the clock it was `longer` times
    that. With more they are the clock's, because threads of torch wait for each other at full speed.
    """

    start: float
    step: float
    validation: float
    longer: float

    def of(self, cell: Planned) -> float:
        """Seconds of a whole cell, if nothing ends it early."""
        config = cell.run.config
        validations = -(-config.train.steps // config.log.evaluate)
        return self.start + config.train.steps * self.step + validations * self.validation


def flops(study: StudyFile, cell: Planned) -> int:
    """FLOP of matrix products in all steps of a cell."""
    train = cell.run.config.train
    return step_flops(study.graph(cell.run), cell.run.config, train.recompute) * train.steps


def listing(study: StudyFile, cells: list[Planned], out: Path, jobs: int) -> str:
    """A table of the cells with what each costs, and what those that have not ended cost together."""
    begun = reader.read(out).cells if (out / reader.CELLS).exists() else []
    states = {cell.name: cell.state for cell in begun}
    jobs = study.config.slurm.at_once if study.config.slurm else jobs
    left = [cell for cell in cells if states.get(cell.name) not in reader.ENDED]
    seconds, basis = _seconds(study, left, jobs)
    times = {cell.name: clock(seconds(cell)) for cell in left}
    rows = [HEAD, *(_row(study, cell, times.get(cell.name, ""), states.get(cell.name, "missing")) for cell in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = "\n".join(_line(row, widths) for row in rows)
    total = clock(together(map(seconds, left), jobs))
    tokens = sum(map(_tokens, left))
    told = f"{len(left)} of {len(cells)} cells to run: {tokens:,} tokens, about {total} with {jobs} at once"
    return f"{table}\n\n{told}\n{basis}"


def together(seconds: Iterable[float], jobs: int) -> float:
    """Time until all have ended, each of which begins as soon as one of `jobs` places is free."""
    ends = [0.0] * jobs
    for each in seconds:
        heapreplace(ends, ends[0] + each)
    return max(ends)


def _seconds(study: StudyFile, cells: list[Planned], jobs: int) -> tuple[Callable[[Planned], float], str]:
    """How long a cell takes, and how that is known: from a few steps taken here, or from a device's published rate."""
    slurm = study.config.slurm
    if slurm and slurm.gpus:
        rates, gpus = DEVICES[slurm.device].rates, slurm.gpus
        told = f"time: {gpus} x {slurm.device} a cell, matrix products at {UTILISATION:.0%} of the published rate"
        return lambda cell: flops(study, cell) / (rates[cell.run.config.train.precision] * gpus * UTILISATION), told
    times: dict[str, Times] = {}
    if cells and (code := prepared(cells, study.ops)):
        raise SystemExit(code)
    threads = max(1, cores() // jobs)
    for cell in cells:
        key = _kind(cell)
        times[key] = times.get(key) or _timed(study, cell, threads)
    return lambda cell: times[_kind(cell)].of(cell), _basis(list(times.values()), threads)


def _basis(times: list[Times], threads: int) -> str:
    """How the times were taken, and how loaded the machine was."""
    what = f"{STEPS} steps and a validation of each kind of cell, taken here just now"
    if threads > 1:
        return f"time: {what} with {threads} threads, by the clock; load before: {os.getloadavg()[0]:.1f}"
    told = f"time: {what}, processor time of one thread, as on a core of its own"
    if times and (longer := max(each.longer for each in times)) > LOADED:
        told += f"; others took so much of it that the clock showed {longer:.1f} times as long"
    return told


def _kind(cell: Planned) -> str:
    """What decides how long a step takes: cells that differ in the rest are timed once."""
    config = cell.run.config
    train = config.train
    sizes = [train.batch, train.micro, config.data.seq, config.log.evaluate_tokens]
    ways = [train.precision, train.compile, train.loss, train.lowering, train.checkpointing, config.optim.name]
    return json.dumps([config.model, config.set, config.tokenizer.model_dump(), sizes, ways])


def _timed(study: StudyFile, cell: Planned, threads: int) -> Times:
    """The times of a cell, taken in a process of its own."""
    source, target = os.pipe()

    def work() -> int:
        os.write(target, json.dumps(_time(study, cell, threads)).encode())
        return 0

    child = forked(work)
    os.close(target)
    with os.fdopen(source) as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise SystemExit(code)
    return Times(*json.loads(told))


def _time(study: StudyFile, cell: Planned, threads: int) -> list[float]:
    import torch

    from runners import inputs
    from runners.launch import Launch
    from runners.world import World

    torch.set_num_threads(threads)
    now = time.process_time if threads == 1 else time.perf_counter
    began, opened = now(), time.perf_counter()
    world = World(Launch(), torch.device("cpu"))
    found = inputs.lowered_for(cell.run, inputs.prepare(cell.run, study.ops), world)
    trainer = inputs.build(cell.run, found, world)
    trainer.step(1)
    ready = now()
    for number in range(STEPS):
        trainer.step(2 + number)
    stepped = now()
    trainer.evaluate()
    ended, closed = now(), time.perf_counter()
    longer = (closed - opened) / max(ended - began, TICK)
    return [ready - began, (stepped - ready) / STEPS, ended - stepped, longer]


def _row(study: StudyFile, cell: Planned, left: str, state: str) -> tuple[str, ...]:
    parameters = blockgraph.cost(study.graph(cell.run)).parameters
    return cell.name, f"{parameters:,}", f"{_tokens(cell):,}", left, state


def _tokens(cell: Planned) -> int:
    config = cell.run.config
    return config.train.steps * config.train.batch * config.data.seq


def _line(row: tuple[str, ...], widths: Iterable[int]) -> str:
    (name, *cells), (first, *rest) = row, widths
    return f"{name:<{first}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, rest, strict=True))

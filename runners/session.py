"""A checked run and its directory to a trained model."""

import difflib
import gc
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import torch
from rich.console import Console

import blockgraph
from blockgraph import canonical
from blockgraph.errors import Place, Problem, Problems
from blockgraph.graph import Graph
from blockgraph.lower import lower
from blockgraph.model import Model
from blockgraph.op import Op
from runners import intact
from runners.checkpoint import Checkpoint, Checkpoints
from runners.inputs import Inputs, build, lowered_for, prepare, room_for
from runners.launch import Launch
from runners.loop import Loop
from runners.metrics import Metrics, rows
from runners.outcome import Outcome
from runners.progress import Progress
from runners.pulse import Pulse, watched
from runners.recorder import Recorder
from runners.room import COPY_BYTES
from runners.rundir import MODEL, RUN, RunDir, warn
from runners.runfile import RunFile, to_yaml
from runners.saver import Saver
from runners.series import PROBES, Column
from runners.sinks import opened
from runners.speed import Pace, matmul_peak
from runners.stop import Stop
from runners.trainer import DTYPES, Trainer
from runners.watch import Watch
from runners.world import World, joined

REPORTED = ("loss", "val_loss", "val_bits_per_byte")
SHOWN = 10  # differences of a model that an error tells


def train(run: RunFile, ops: Mapping[str, type[Op]], directory: RunDir, stop: Stop, launch: Launch) -> Outcome:
    """Train from the newest good checkpoint, or from the beginning, and write down how it ended.

    Raises `SpecError` when data or model do not fit the run, and `OSError` when the disk refuses.
    """
    inputs = prepare(run, ops)
    asked = run.config.train
    with (
        joined(launch, asked.shard, asked.timeout_s) as world,
        watched(world, directory, asked.timeout_s, asked.compile is not False) as pulse,
    ):
        return _trained(run, inputs, directory, stop, world, pulse)


def _trained(run: RunFile, inputs: Inputs, directory: RunDir, stop: Stop, world: World, pulse: Pulse | None) -> Outcome:
    checkpoints = Checkpoints(directory.checkpoints, run.config.checkpoint.keep)
    saved = _newest(checkpoints, world)
    if saved:
        _refuse_others(run, directory, saved, inputs)
    inputs = lowered_for(run, inputs, world, saved.state["inputs"] if saved else None)
    trainer = build(run, inputs, world, begins=saved is None)
    if world.leads:
        checkpoints.require(COPY_BYTES * trainer.count)
    _describe(run, directory, inputs, trainer)
    space = room_for(inputs, world)
    saver = Saver(checkpoints, world, space.behind(run.config.checkpoint), saved.step if saved else 0)
    with _metrics(run, directory, saved, trainer.model) as metrics, closing(saver), _progress(trainer) as progress:
        _announce(run, inputs, trainer, progress)
        progress.say(f"checkpoints: {space.told(run.config.checkpoint)}")
        pace = _pace(run, inputs, trainer)
        progress.say(f"peak: {pace.peak / 1e9:,.0f} GFLOP/s, the fastest matrix product measured here just now")
        loop = Loop(
            trainer,
            metrics,
            saver,
            progress,
            pace,
            inputs.data.bytes_per_token,
            inputs.recorded,
        )
        if saved:
            intact.refuse_tensors(saved, trainer.tensors()["model"])
            loop.restore(saved)
            progress.say(f"goes on after step {saved.step}")
        if pulse:
            pulse.done = lambda: loop.done
        gc.freeze()  # what is there by now stays
        gc.enable()
        return _run(loop, directory, stop)


def _newest(checkpoints: Checkpoints, world: World) -> Checkpoint | None:
    """The newest good checkpoint; one process looks for it and verifies it, the others are told its step."""
    found = checkpoints.newest(warn) if world.leads else None
    step = world.most(found.step if found else -1)
    return checkpoints.at(step) if step >= 0 else None


def _refuse_others(run: RunFile, directory: RunDir, saved: Checkpoint, inputs: Inputs) -> None:
    """Raise `SpecError` when the checkpoint is not whole, or was trained from something else than was found now."""
    watch = Watch(run.config.train).state()
    intact.refuse_state(saved, {"inputs": inputs.recorded, "watch": watch, "passed": [[0]]})
    problems = Problems()
    for key, digest in inputs.digests.items():
        if saved.state["inputs"][key] != digest:
            message = f"the {key} is not the one that {directory.path} was started with"
            problems.add(message, run.place(key), "put it back, or name another directory with --out")
            problems.found += _differences(directory, inputs.graph) if key == "model" else ()
    problems.stop_if_any()


def _differences(directory: RunDir, graph: Graph) -> list[Problem]:
    """Where the model differs from the one written down when the run began; the first of many places."""
    path = directory.path / MODEL
    before, now = path.read_text().splitlines(), canonical.text(graph).splitlines()
    found = []
    for kind, start, end, first, last in difflib.SequenceMatcher(None, before, now).get_opcodes():
        if kind != "equal":
            old, new = (" ".join(" ".join(lines).split()) for lines in (before[start:end], now[first:last]))
            found.append(Problem(f"was '{old}', is now '{new}'", Place(str(path), start + 1)))
    return found[:SHOWN]


def _metrics(
    run: RunFile, directory: RunDir, saved: Checkpoint | None, model: Model
) -> AbstractContextManager[Metrics]:
    """The series of a run; of a process that does not write, nowhere."""
    if not directory.writes:
        return closing(Metrics(Path(os.devnull), 0))
    step = saved.step if saved else 0
    return closing(Metrics(directory.metrics, step, opened(run, directory), _recorder(directory, model, step)))


def _recorder(directory: RunDir, model: Model, step: int) -> Recorder | None:
    """Where the probes of a run go; nowhere if it has none and never had any."""
    folder, series = directory.path / PROBES, model.probes.series
    if not series and not folder.exists():
        return None
    columns = (Column(reading.name, reading.quantity.unit, reading.quantity.meaning) for reading in series)
    return Recorder(folder, columns, step)


def _progress(trainer: Trainer) -> Progress:
    return Progress(trainer.steps) if trainer.world.leads else Progress(trainer.steps, Console(quiet=True))


def _describe(run: RunFile, directory: RunDir, inputs: Inputs, trainer: Trainer) -> None:
    """Write down what is trained, everything resolved."""
    directory.write(RUN, to_yaml(run.config.model_dump(by_alias=True)))
    directory.write(MODEL, canonical.text(inputs.graph))
    directory.write("model.py", lower(inputs.graph))
    directory.write("tokenizer.model", inputs.tokenizer.model_bytes)


def _announce(run: RunFile, inputs: Inputs, trainer: Trainer, progress: Progress) -> None:
    config = run.config
    tokens = config.train.batch * config.data.seq
    seen = config.train.steps * tokens / inputs.data.tokens
    world = trainer.world
    threads = f"on the CPU, threads: {torch.get_num_threads()}"
    where = threads if world.device.type == "cpu" else f"on {torch.cuda.get_device_name()}"
    model = " ".join([config.model, *(f"{name}={value}" for name, value in config.set.items())])
    progress.say(f"{config.run}: {model}, {trainer.count:,} parameters, {config.train.precision} {where}")
    progress.say(f"{config.train.steps:,} steps of {tokens:,} tokens: {seen:.2f} times the training text")
    if world.mesh:
        copies = f"{world.copies} copies, each" if world.copies > 1 else "one copy,"
        progress.say(f"state: {copies} sharded over {world.pieces} processes")
    held_out = trainer.held_out * config.data.seq
    progress.say(f"validation: the same {held_out:,} held-out tokens, every {config.log.evaluate} steps")
    progress.say(f"loss: {inputs.objective.kind} ({inputs.objective.why})")
    for decision in inputs.graph.decisions:
        progress.say(f"lowering: {decision}")
    progress.say(f"compile: {inputs.compiling}")


def _pace(run: RunFile, inputs: Inputs, trainer: Trainer) -> Pace:
    config = run.config
    forward = blockgraph.cost(inputs.graph).flops(batch=config.train.batch, seq=config.data.seq)
    world = trainer.world
    peak = world.size * matmul_peak(world.device, DTYPES[config.train.precision]) if world.leads else math.inf
    # The backward pass has two products for each one of the forward pass.
    return Pace(config.train.batch * config.data.seq, 3 * forward, peak)


def _run(loop: Loop, directory: RunDir, stop: Stop) -> Outcome:
    """Train, and leave a status that is true however it ends."""
    directory.set_status("running", loop.done)
    stop.training = True
    try:
        outcome = loop.run(stop)
        stop.over = True
    except KeyboardInterrupt:
        stop.over = True
        loop.saver.close()
        outcome = Outcome("stopped", loop.saver.saved, {"reason": "at once"} | loop.counts)
    except BaseException as error:
        with suppress(OSError):
            directory.set_status("failed", loop.done, reason=f"{type(error).__name__}: {error}")
        raise
    if outcome.state == "finished" and directory.writes:
        last = rows(directory.metrics)[-1]
        outcome = Outcome(outcome.state, outcome.step, {key: last[key] for key in REPORTED} | outcome.facts)
    directory.set_status(outcome.state, outcome.step, **outcome.facts)
    return outcome

"""Processor time of the runner's step next to a bare loop around the same module, in one process."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import torch
from measure import in_turn, table
from rich.console import Console

from blockgraph.ops import OPS
from runners import runfile
from runners.checkpoint import Checkpoints
from runners.inputs import Inputs, build, lowered_for, prepare
from runners.launch import Launch
from runners.loop import Loop
from runners.metrics import Metrics
from runners.progress import Progress
from runners.runfile import RunFile
from runners.saver import Saver
from runners.speed import Pace
from runners.trainer import Trainer
from runners.world import World

RUN = Path(__file__).parents[1] / "specs" / "runs" / "demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="steps of each, taken in turn (default: 40)")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="replace a key of specs/runs/demo.yaml")
    asked = parser.parse_args()
    run = runfile.load(RUN, ["train.steps=1000000", "log.evaluate=1000000", "log.probes=[]", *asked.overrides])
    world = World(Launch(), torch.device("cpu"))
    inputs = lowered_for(run, prepare(run, OPS), world)
    with tempfile.TemporaryDirectory() as folder, runner(run, inputs, world, Path(folder)) as ours:
        candidates = {"a bare loop": bare(build(run, inputs, world)), "the runner": ours}
        in_turn(candidates, 3)  # what the first steps do once
        times = in_turn(candidates, asked.rounds)
    print(f"{run.config.model} {run.config.set}, {run.config.train.batch} x {run.config.data.seq} tokens,")
    print(f"{run.config.train.precision}, threads: {torch.get_num_threads()}, a row of metrics every 10 steps\n")
    print(table(times, "a bare loop"))


def bare(trainer: Trainer) -> Callable[[], None]:
    """A step as a tutorial writes it, with torch's own clipping; the loss is read, as every loop does."""
    model, config, numbers = trainer.model, trainer.config, count()
    batch = config.train.batch

    def step() -> None:
        tokens = trainer.train.batch(next(numbers) * batch, batch)
        loss, _ = trainer.loss(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        loss.item()

    return step


@contextmanager
def runner(run: RunFile, inputs: Inputs, world: World, folder: Path) -> Iterator[Callable[[], object]]:
    """A step of the runner: judged before it is taken, timed, logged."""
    trainer = build(run, inputs, world)
    progress = Progress(trainer.steps, Console(quiet=True))
    pace = Pace(run.config.train.batch * run.config.data.seq, 1, 1.0)
    checkpoints = Checkpoints(folder / "checkpoints", 2)
    with closing(Metrics(folder / "metrics.jsonl", 0)) as metrics, closing(Saver(checkpoints, world, True)) as saver:
        loop = Loop(trainer, metrics, saver, progress, pace, inputs.data.bytes_per_token, inputs.recorded)
        yield loop._advance


if __name__ == "__main__":
    main()

"""Whether blocks and loss of a run go through torch.compile: as asked for, or by what that would take and save."""

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import blockgraph
from blockgraph.files import save
from blockgraph.graph import Graph
from runners import cache
from runners.runfile import RunFile
from runners.speed import matmul_peak

KEY = "compile"  # of the inputs that a checkpoint keeps
RATES = "rates.json"  # in the cache folder
COMPILERS = ("g++", "clang++", "c++")

# Of gpt at width 256 on two CPU cores (docs/log.md); an estimate need not be better than its factor of safety.
SHARE = 0.45  # of the rate of the fastest matrix product, at which an eager step does its own
NODE_SECONDS = 3e-5  # of an eager step for a node, forward and backward, however small its tensors
SAVED = 0.3  # of an eager step
SECONDS = 25.0  # to compile a kind of block, or the loss, with nothing in the cache
SAFETY = 2.0  # times the cost that compiling has to save
SLOWEST = 1e9  # FLOP/s that any machine reaches


@dataclass(frozen=True)
class Compiling:
    """Whether blocks and loss are compiled, and why, in words."""

    on: bool
    why: str

    def __str__(self) -> str:
        return f"{'blocks and loss' if self.on else 'off'} ({self.why})"


EAGER = Compiling(False, "not asked for")  # until it is chosen


def compiling(
    run: RunFile, graph: Graph, device: torch.device, processes: int = 1, kept: Mapping[str, str] | None = None
) -> Compiling:
    """What `train.compile` asks for; `auto` does what the run began with, which a checkpoint has `kept`.

    A run that begins estimates it from its steps and a rate that is measured once on a machine, so that equal runs
    choose alike.
    """
    asked = run.config.train.compile
    if asked != "auto":
        return Compiling(asked, "as asked for")
    if kept and KEY in kept:
        return Compiling(kept[KEY] == "on", "auto, when the run began")
    if device.type == "cuda":
        return Compiling(True, "auto on cuda")
    if not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        return Compiling(False, "auto: there is no C++ compiler")
    return _estimated(run, graph, processes, device)


def recorded(chosen: Compiling) -> dict[str, str]:
    """What a checkpoint keeps of the choice."""
    return {KEY: "on" if chosen.on else "off"}


def keep_kernels() -> None:
    """Let torch keep what it compiles in the cache folder, where the next run finds it."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.folder() / "inductor"))


def _estimated(run: RunFile, graph: Graph, processes: int, device: torch.device) -> Compiling:
    steps, cost = run.config.train.steps, compile_seconds(graph)
    if SAVED * steps * step_seconds(run, graph, SLOWEST * processes) < SAFETY * cost:
        return Compiling(False, f"auto: {steps:,} steps are too few, compiling takes about {cost:.0f} s")
    rate = _rate(device, run.config.train.precision)
    saved = SAVED * steps * step_seconds(run, graph, rate * processes)
    return Compiling(saved >= SAFETY * cost, f"auto: takes about {cost:.0f} s, saves about {saved:,.0f} s")


def compile_seconds(graph: Graph) -> float:
    """Time to compile each kind of block once, and the loss."""
    return SECONDS * (1 + sum(len(set(node.plan)) for node in graph.nodes.values()))


def step_seconds(run: RunFile, graph: Graph, rate: float) -> float:
    """Time of an eager step where matrix products reach this many FLOP/s."""
    config = run.config
    flops = 3 * blockgraph.cost(graph).flops(batch=config.train.batch, seq=config.data.seq)
    passes = config.train.batch // config.train.micro
    return flops / (SHARE * rate) + passes * NODE_SECONDS * sum(1 for _ in graph.walk())


def _rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the fastest matrix product, measured the first time that this machine is asked."""
    path, dtype = cache.folder() / RATES, torch.bfloat16 if precision == "bf16" else torch.float32
    known = _known(path)
    key = f"{platform.node()} {device.type} {precision} threads {torch.get_num_threads()} torch {torch.__version__}"
    if key not in known:
        known[key] = matmul_peak(device, dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, json.dumps(known, indent=1) + "\n")
    return known[key]


def _known(path: Path) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # not there, or damaged: it is measured again

"""`blockgraph plan`: a run file to the memory, time and disk that its run will need."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.errors import SpecError
from runners import runfile, tokenizer
from runners.config import RunConfig
from runners.devices import DEVICES, GIB, TERA, USABLE, Machines
from runners.progress import clock
from runners.runfile import RunFile
from runners.spec import graph_of
from runners.train import _override

if TYPE_CHECKING:
    from runners.planning import Plan

DAY = 86_400  # seconds
UTILISATION = 0.4
DESCRIPTION = """Say what a run will need: memory of a rank, with activations kept and with layers computed again,
arithmetic, time, and room for a checkpoint. Nothing is trained, and no GPU is needed."""
EXAMPLE = """example:
  blockgraph plan specs/runs/demo.yaml --nodes 4 --gpus 8 --device h100
  blockgraph plan specs/runs/demo.yaml train.batch=512 data.seq=4096 train.micro_batch=1 --gpus 8 --json

exit status: 0 success, whether it fits or not; 1 the input is at fault; 2 wrong usage"""
LABELS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "optimiser": "optimiser, {optimiser}",
    "gathered": "weights for the kernels, {precision}",
    "reduced": "gradients on their way to the shards",
    "input": "activations before the layers",
    "layers": "activations of {layers} layers",
    "output": "activations after the layers, logits, loss",
    "backward": "backward pass",
}


def command(argv: list[str]) -> int:
    """Tell the memory, time and disk that a run will need; returns the exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(argv)
    ranks = options.nodes * options.gpus
    if ranks % (options.shard or ranks):
        parser.error(f"--shard {options.shard} does not divide {ranks} ranks")
    device = DEVICES[options.device]
    machines = Machines(
        options.device, device, options.nodes, options.gpus, options.shard or ranks, options.utilisation
    )
    try:
        print(_told(options, machines))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph plan",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN.yaml", type=Path, help="the run file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", type=_override, help="replace a key of the file")
    parser.add_argument("--nodes", metavar="N", type=_count, default=1, help="machines (default 1)")
    parser.add_argument("--gpus", metavar="N", type=_count, default=1, help="devices of each machine (default 1)")
    parser.add_argument("--device", choices=DEVICES, default="h100", help="kind of device (default h100)")
    parser.add_argument("--shard", metavar="N", type=_count, help="HSDP: ranks that share the weights (default all)")
    parser.add_argument(
        "--utilisation", metavar="SHARE", type=_share, default=UTILISATION,
        help=f"of the device's rate that matrix products reach, for the time (default {UTILISATION})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object: bytes, FLOP, seconds")
    add_ops(parser)
    return parser


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found '{word}'")
    return int(word)


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and up to 1, found '{word}'")
    return share


def _told(options: argparse.Namespace, machines: Machines) -> str:
    run = runfile.load(options.run, options.overrides)
    graph = graph_of(run, own_ops(options.ops), _vocab(run))
    micro = _micro(run, machines.ranks)
    # Only now, because it imports torch, which takes seconds: a mistake is told before.
    from runners.planning import plan

    needs = plan(run, graph, machines, micro)
    if options.json:
        return json.dumps(_object(needs, run.config, machines), indent=1)
    return "\n".join([*_head(needs, run.config, machines), "", *_table(needs, run.config, machines)])


def _vocab(run: RunFile) -> int:
    """Pieces of the tokenizer, which is not trained for this."""
    config = run.config.tokenizer
    return config.vocab or tokenizer.load(run.base / str(config.path)).vocab


def _micro(run: RunFile, ranks: int) -> int:
    """Sequences in a rank's forward pass; raise `SpecError` when the batch cannot be shared by the ranks."""
    train = run.config.train
    share, rest = divmod(train.batch, ranks)
    if rest:
        message = f"train.batch: {train.batch} sequences cannot be shared by {ranks} ranks"
        raise run.refuse("train.batch", message, f"a multiple of {ranks} can")
    micro = train.micro_batch or share
    if share % micro:
        message = f"train.micro_batch: {micro} does not divide the {share} sequences that a rank has of a step"
        raise run.refuse("train.micro_batch", message)
    return micro


def _object(needs: "Plan", config: RunConfig, machines: Machines) -> dict[str, Any]:
    """The plan as JSON has it: bytes of a rank, FLOP of a step on all ranks, seconds."""
    per_day = {name: DAY * needs.tokens / mode.seconds for name, mode in needs.modes.items()}
    modes = {name: asdict(mode) | {"tokens_per_day": per_day[name]} for name, mode in needs.modes.items()}
    return {"run": config.run, "machines": asdict(machines)} | asdict(needs) | {"modes": modes}


def _head(needs: "Plan", config: RunConfig, machines: Machines) -> list[str]:
    device, train = machines.device, config.train
    rate = f"{device.rates[train.precision] / TERA:,.4g} TFLOP/s in {train.precision}"
    has = f"{_bytes(device.memory)}, {rate} and {device.bandwidth / TERA:.3g} TB/s each"
    batches = f"{needs.micro_batches} micro-batches of {needs.micro} on each rank"
    return [
        f"{config.run}: {config.model}, {needs.parameters:,} parameters",
        f"{machines.nodes} x {machines.gpus} {machines.name}: {has}; weights shared by {machines.shard}",
        f"a step: {train.batch:,} sequences of {config.data.seq:,} tokens, {batches}",
    ]


def _table(needs: "Plan", config: RunConfig, machines: Machines) -> list[str]:
    modes = list(needs.modes.values())
    names = {"optimiser": config.optim.name, "precision": config.train.precision, "layers": needs.layers}
    parts = [
        (label.format(**names), *(_bytes(mode.parts[part]) for mode in modes))
        for part, label in LABELS.items()
        if any(mode.parts[part] for mode in modes)
    ]
    rows = [
        ("activation checkpointing", *needs.modes),
        ("", *("-" * len(name) for name in needs.modes)),
        *parts,
        ("a rank when it is fullest", *(_bytes(sum(mode.parts.values())) for mode in modes)),
        (f"fits {_bytes(machines.usable)}", *("yes" if mode.fits else "no" for mode in modes)),
        ("largest micro-batch that fits", *(str(mode.largest or "none") for mode in modes)),
        ("", *("" for _ in modes)),
        ("FLOP of a step", *(_short(mode.flops) for mode in modes)),
        ("FLOP of a token", *(_short(mode.flops / needs.tokens) for mode in modes)),
        ("time of a step", *(f"{mode.seconds:.3g} s" for mode in modes)),
        (f"time of {config.train.steps:,} steps", *(clock(mode.seconds * config.train.steps) for mode in modes)),
        ("tokens a day", *(_short(DAY * needs.tokens / mode.seconds) for mode in modes)),
        ("checkpoint on the disk", *(_bytes(needs.checkpoint) for _ in modes)),
    ]
    return rows

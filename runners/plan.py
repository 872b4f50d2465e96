"""`blockgraph plan`: a run file to the memory, time and disk that its run will need."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.errors import SpecError
from runners import runfile
from runners.config import RunConfig
from runners.devices import DEVICES, USABLE, Machines
from runners.launch import Launch
from runners.progress import clock
from runners.spec import graph_of, vocab_of
from runners.train import override

if TYPE_CHECKING:
    from runners.planning import Mode, Plan

DAY = 86_400  # seconds
UTILISATION = 0.4
DESCRIPTION = """Say what a run will need: memory of a rank, with activations kept and with layers computed again,
arithmetic, time, and room for a checkpoint. Nothing is trained, and no GPU is needed."""
EXAMPLE = """example:
  blockgraph plan specs/runs/demo.yaml --device cpu
  blockgraph plan specs/runs/demo.yaml train.batch=512 train.micro_batch=8 --nodes 4 --gpus 8 --device h100

exit status: 0 success, whether it fits or not; 1 the input is at fault; 2 wrong usage"""
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
FLOP = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP", "YFLOP")
COUNT = ("tokens", "thousand", "million", "billion", "trillion")
LABELS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32{later}",
    "optimiser": "optimiser, {optimiser}",
    "gathered": "weights that kernels read, {precision}",
    "reduced": "gradients on their way to the shards",
    "input": "activations before the layers",
    "layers": "activations of {layers} layers",
    "output": "activations after the layers: logits, loss",
    "backward": "backward pass",
}


def command(argv: list[str]) -> int:
    """Tell the memory, time and disk that a run will need.

    Returns the exit code.
    """
    options = _parser().parse_intermixed_args(argv)
    try:
        print(_told(options))
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
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", type=override, default=[], help="replace a key of the file"
    )
    parser.add_argument("--nodes", metavar="N", type=count, default=1, help="machines (default 1)")
    parser.add_argument("--gpus", metavar="N", type=count, default=1, help="devices of each machine (default 1)")
    parser.add_argument("--device", choices=DEVICES, default="h100", help="kind of device (default h100)")
    parser.add_argument("--shard", metavar="N", type=count, help="HSDP: ranks that share the weights, as train.shard")
    parser.add_argument(
        "--utilisation", metavar="SHARE", type=_share, default=UTILISATION,
        help=f"of the device's rate that matrix products reach, for the time (default {UTILISATION})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object: bytes, FLOP, seconds")
    add_ops(parser)
    return parser


def count(word: str) -> int:
    """A number of the command line, at least 1; raises what argparse tells as wrong usage."""
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


def _told(options: argparse.Namespace) -> str:
    overrides = [*options.overrides, *([f"train.shard={options.shard}"] if options.shard else [])]
    run = runfile.load(options.run, overrides)
    launch = Launch(size=options.nodes * options.gpus)
    launch.refuse(run)
    graph = graph_of(run, own_ops(options.ops), vocab_of(run))
    # Only now, because it imports torch, which takes seconds: a mistake is told before.
    from runners.planning import plan

    place = options.device, DEVICES[options.device], options.nodes, options.gpus
    machines = Machines(*place, launch.sharing(run.config.train.shard), options.utilisation)
    needs = plan(run, graph, machines)
    if options.json:
        return json.dumps(_object(needs, run.config, machines), indent=1)
    return _text(needs, run.config, machines)


def _object(needs: "Plan", config: RunConfig, machines: Machines) -> dict[str, Any]:
    """The plan as JSON has it: bytes of a rank, FLOP of a step on all ranks, seconds."""
    modes = {name: asdict(mode) | {"tokens_per_day": _per_day(needs, mode)} for name, mode in needs.modes.items()}
    return {"run": config.run, "machines": asdict(machines)} | asdict(needs) | {"modes": modes}


def _text(needs: "Plan", config: RunConfig, machines: Machines) -> str:
    sections = [_memory(needs, config, machines), _work(needs, config)]
    first = max(len(row[0]) for rows in sections for row in rows)
    width = max(len(cell) for rows in sections for row in rows for cell in row[1:]) + 2
    tables = ["\n".join(_line(row, first, width) for row in rows) for rows in sections]
    return "\n\n".join(["\n".join(_head(needs, config, machines)), *tables, _assumed(needs, machines)])


def _line(row: tuple[str, ...], first: int, width: int) -> str:
    return row[0].ljust(first) + "".join(cell.rjust(width) for cell in row[1:])


def _head(needs: "Plan", config: RunConfig, machines: Machines) -> list[str]:
    device, train = machines.device, config.train
    rate = f"{_scaled(device.rates[train.precision], 1000, FLOP)}/s in {train.precision}"
    has = f"{_bytes(device.memory)}, {_scaled(device.bandwidth, 1000, DECIMAL)}/s and {rate} each"
    shared = f"weights shared by {machines.shard}" if machines.shard > 1 else "all weights on each"
    share = f"each device takes {needs.share:,} of them, {needs.micro:,} at a time"
    return [
        f"{config.run}: {config.model}, {needs.parameters:,} parameters",
        f"{machines.nodes} x {machines.gpus} {machines.name}: {has}; {shared}",
        f"a step: {train.batch:,} sequences of {config.data.seq:,} tokens; {share}",
    ]


def _memory(needs: "Plan", config: RunConfig, machines: Machines) -> list[tuple[str, ...]]:
    modes, given = list(needs.modes.values()), config.train.checkpoints
    parts = {part: [mode.parts[part] for mode in modes] for part in LABELS}
    later = f", {_bytes(needs.gradients)} once made" if min(parts["gradients"]) < needs.gradients else ""
    names = {"optimiser": config.optim.name, "precision": config.train.precision, "layers": needs.layers}
    return [
        ("activation checkpointing", *(f"{name}, as set" if name == given else name for name in needs.modes)),
        *((label.format(later=later, **names), *map(_bytes, parts[part])) for part, label in LABELS.items()),
        ("memory of a device at its fullest", *(_bytes(sum(mode.parts.values())) for mode in modes)),
        (f"fits into {_bytes(machines.usable)}", *("yes" if mode.fits else "no" for mode in modes)),
        ("largest micro-batch that fits", *(str(mode.largest or "none") for mode in modes)),
    ]


def _work(needs: "Plan", config: RunConfig) -> list[tuple[str, ...]]:
    modes, steps = list(needs.modes.values()), config.train.steps
    return [
        ("arithmetic of a step", *(_scaled(mode.flops, 1000, FLOP) for mode in modes)),
        ("arithmetic of a token", *(_scaled(mode.flops / needs.tokens, 1000, FLOP) for mode in modes)),
        ("time of a step", *(f"{mode.seconds:.3g} s" for mode in modes)),
        (f"time of {steps:,} steps", *(clock(mode.seconds * steps) for mode in modes)),
        ("tokens a day", *(_scaled(_per_day(needs, mode), 1000, COUNT) for mode in modes)),
        ("a checkpoint on the disk", *(_bytes(needs.checkpoint) for _ in modes)),
    ]


def _assumed(needs: "Plan", machines: Machines) -> str:
    rate, free = f"{machines.utilisation:.0%} of the rate", f"{1 - USABLE:.0%} of the memory"
    kernels = f"assumed: eager kernels (torch.compile needs less), matrix products at {rate}, {free} left free"
    whole = ", whole on every device until then" if needs.micro < needs.share else ""
    sharded = f"\nFSDP2 by layer; gradients are reduced in fp32 at the end of a step{whole}"
    return kernels + (sharded if machines.ranks > 1 else "")


def _per_day(needs: "Plan", mode: "Mode") -> float:
    return DAY * needs.tokens / mode.seconds


def _bytes(count: float) -> str:
    return _scaled(count, 1024, BINARY)


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    """Three digits and the unit that suits them."""
    power = 0
    while number >= step and power < len(units) - 1:
        number, power = number / step, power + 1
    return f"{number:.{0 if power == 0 or number >= 100 else 1 if number >= 10 else 2}f} {units[power]}"

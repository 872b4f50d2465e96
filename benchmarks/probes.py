"""Processor time of a probed step next to a plain one before it, as the runner takes both; medians, middle halves."""

import argparse
import time
from statistics import quantiles

import torch
from measure import machine
from peers import Shape
from step import TOKENS, trainer

from blockgraph.probes import GROUPS
from runners.config import Log
from runners.speed import keep_memory
from runners.trainer import DTYPES, Trainer

EACH = ("baseline", "qk_norm", "soft_cap", "soft_clip")


def main() -> None:
    """Print a table of blocks with the default probes, or with --groups one of what is probed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind, taken in turn (default: 15)")
    parser.add_argument("--block", nargs="+", default=EACH, help=f"of the model (default: {' '.join(EACH)})")
    parser.add_argument("--seq", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--precision", choices=DTYPES, default="bf16", help="of the compute (default: bf16)")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    parser.add_argument("--groups", action="store_true", help="measure each group of series, eagerly")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    log = Log()
    print(f"{machine()}\n\ngpt, width 256, 6 layers, {TOKENS} tokens, {asked.precision}\n")
    print("| block | tokens | | probed | series | probed step of a plain one | middle half | of a run |")
    print("|---|---:|---|---|---:|---:|---:|---:|")
    words = {"the default": log.probes}
    if asked.groups:
        words |= {**{group: [group] for group in GROUPS}, "everything": ["**"]}
    ways = [False] if asked.eager or asked.groups else [False, True]
    for block, seq, compiled in ((block, seq, way) for block in asked.block for seq in asked.seq for way in ways):
        shape = Shape(seq, TOKENS // seq)
        for name, chosen in words.items():
            ours = trainer(shape, block, compiled, asked.precision, chosen)
            low, middle, high = quantiles(ratios(ours, asked.rounds), n=4)
            row = (
                f"{block} | {seq} | {'compiled' if compiled else 'eager'} | {name} | {len(ours.model.probes.series)} | "
                f"{middle:.3f} | {low:.3f} to {high:.3f} | {(middle - 1) / (log.probe + middle - 1):.2%}"
            )
            print(f"| {row} |", flush=True)
        torch.compiler.reset()


def ratios(ours: Trainer, rounds: int) -> list[float]:
    """Times of probed steps, each over that of the plain one before it."""
    for probed in (False, True, False, True):
        timed(ours, probed)  # compiled and warm
    pairs = [(timed(ours, False), timed(ours, True)) for _ in range(rounds)]
    return [probed / plain for plain, probed in pairs]


def timed(ours: Trainer, probed: bool) -> float:
    began = time.process_time()
    if probed:
        ours.probing.start()
    ours.step(1)
    ours.probing.finish()
    return time.process_time() - began


if __name__ == "__main__":
    main()

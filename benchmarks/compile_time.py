"""Time of the first training step where blocks and loss are compiled, by the number of layers, with nothing cached."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from measure import machine

DEEP, SHALLOW = 24, 2  # layers


def main() -> None:
    """Print a row for each depth, or with --layers the CPU seconds of one first step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", default="baseline")
    parser.add_argument("--layers", type=int, help="take one first step with so many layers")
    asked = parser.parse_args()
    if asked.layers:
        print(first_step(asked.block, asked.layers))
        return
    found: dict[int, list[float]] = {SHALLOW: [], DEEP: []}
    for _ in range(asked.rounds):
        for layers, seconds in found.items():
            seconds.append(alone(asked.block, layers))
    print(f"{machine()}\n\n{asked.block}, width 64: CPU seconds, the C++ compiler's among them\n")
    print("| layers | first step, s | range |\n|---:|---:|---:|")
    for layers, seconds in found.items():
        print(f"| {layers} | {statistics.median(seconds):.1f} | {min(seconds):.1f} to {max(seconds):.1f} |")
    print(f"\nratio: {statistics.median(found[DEEP]) / statistics.median(found[SHALLOW]):.2f}")


def alone(block: str, layers: int) -> float:
    """Seconds of a first step in a process of its own, whose cache is empty."""
    words = [sys.executable, __file__, "--block", block, "--layers", str(layers)]
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        return float(subprocess.run(words, env=given, check=True, capture_output=True, text=True).stdout)


def first_step(block: str, layers: int) -> float:
    """CPU seconds of a first compiled step over those of the second, which compiles nothing."""
    import torch
    from peers import Shape
    from step import ours

    torch.set_num_threads(1)
    step = ours(Shape(64, 4, width=64, layers=layers, vocab=512), block, compiled=True)
    times = [sum(os.times()[:4])]
    for _ in range(2):
        step()
        times.append(sum(os.times()[:4]))
    return 2 * times[1] - times[0] - times[2]


if __name__ == "__main__":
    main()

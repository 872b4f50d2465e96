"""Time of a compiled training step of each of the paper's blocks, over that of the baseline."""

import argparse
import warnings

import torch
from measure import in_turn, machine, table
from peers import Shape
from step import TOKENS, ours

from blockgraph.library import shipped
from runners.speed import keep_memory

REFERENCE = "baseline"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    warnings.simplefilter("ignore")
    shape = Shape(asked.seq, TOKENS // asked.seq, layers=asked.layers)
    blocks = [name for name, path in shipped().items() if path.parent.name == "blocks"]
    steps = {name: ours(shape, name, compiled=True) for name in sorted(blocks, key=lambda name: name != REFERENCE)}
    for _ in range(2):
        in_turn(steps, 1)  # compiled and warm
    print(f"{machine()}\n\n{shape}, bf16, blocks and loss compiled\n")
    print(table(in_turn(steps, asked.rounds), REFERENCE))


if __name__ == "__main__":
    main()

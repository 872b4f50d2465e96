"""Time from the start of a program to its first training step: `blockgraph train` next to a bare torch script."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine

RUN = """run: started
set: {n_layers: 2, d_model: 64, n_heads: 4}
data: {train: [{path: words.txt}], seq: 64}
tokenizer: {vocab: 300}
train: {steps: 2, batch: 4}
log: {every: 1, evaluate: 100, evaluate_tokens: 64}
"""
BARE = """
import torch
from torch import nn
torch.set_num_threads(1)
layers = [nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True) for _ in range(2)]
model = nn.Sequential(nn.Embedding(300, 64), *layers, nn.Linear(64, 300, bias=False))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(300, (4, 65))
nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
optimizer.step()
print("step 1", flush=True)
"""
FIRST = "step 1"  # what a program prints after its first step


def main() -> None:
    """Print wall and CPU seconds of both, and by how much they differ round by round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{machine()}\n\n| program | wall, s | CPU, s |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLOCKGRAPH_CACHE"], os.environ["OMP_NUM_THREADS"] = f"{folder}/cache", "1"
        run = written(Path(folder))
        programs = {"bare torch script": ["-c", BARE], "blockgraph train": ["-m", "blockgraph", "train", str(run)]}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for number in range(rounds + 1):
            for name, words in programs.items():
                out = ["--out", f"{folder}/{number}"] if "train" in words else []
                found[name].append(first_step([sys.executable, *words, *out]))
    # The first round fills caches, ours with tokenizer and shards among them.
    medians = {
        name: [statistics.median(column) for column in zip(*times[1:], strict=True)] for name, times in found.items()
    }
    for name, (wall, cpu) in medians.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    bare, ours = medians.values()
    print(f"| difference | {ours[0] - bare[0]:.2f} | {ours[1] - bare[1]:.2f} |")


def written(folder: Path) -> Path:
    """A run file and its text."""
    (folder / "words.txt").write_text("\n".join(f"the {n} words of line {n * n} are these." for n in range(2000)))
    (folder / "run.yaml").write_text(RUN)
    return folder / "run.yaml"


def first_step(command: list[str]) -> tuple[float, float]:
    """Wall time until the first step is told, and CPU time of the whole program, which ends at once after it."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = next((line for line in process.stdout if line.startswith(FIRST)), "")
        wall = time.perf_counter() - began
        process.kill()
    assert found, f"no first step was told by {' '.join(command)}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

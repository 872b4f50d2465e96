"""The attention core forward and backward: each lowering next to the chain run eagerly, in time and in memory."""

import argparse
import ctypes
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import blockgraph as bg
from runners.speed import keep_memory

CORE = """\
block: core
dims: {{n_heads: {heads}, d_head: {width}}}
inputs: {{q: [batch, n_heads, seq, d_head], k: [batch, n_heads, seq, d_head], v: [batch, n_heads, seq, d_head]}}
nodes:
  {norms}
  bmm1:    {{op: matmul, in: [{q}, {k}], transpose: b, scale: 1 / sqrt(d_head)}}
  {before}
  mask:    {{op: causal_mask{window}}}
  softmax: {{op: softmax}}
  {behind}
  bmm2:    {{op: matmul, in: [{last}, v]}}
outputs: {{x: bmm2}}
"""
PLAIN = {"norms": "", "q": "q", "k": "k", "before": "", "window": "", "behind": "", "last": "softmax"}
NORMS = "ln_q: {op: layer_norm, in: q}\n  ln_k: {op: layer_norm, in: k}"
CORES = {
    "plain": {},
    "temperature": {"before": "temp: {op: soft_temp}"},
    "qk_norm": {"norms": NORMS, "q": "ln_q", "k": "ln_k"},
    "cap": {"before": "cap: {op: soft_cap}"},
    "clip": {"behind": "clip: {op: soft_clip}", "last": "clip"},
    # Logits four times as large, so that the clip leaves weights in every block.
    "clip, peaked": {"before": "sharp: {op: scale, by: 4}", "behind": "clip: {op: soft_clip}", "last": "clip"},
    "window": {"window": ", window: 512"},
}
WAYS = ("explicit", "explicit, compiled", "sdpa", "blockwise")
NO_SDPA = ("cap", "clip", "clip, peaked", "window")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
MB = 2**20
STATUS = Path("/proc/self/status")
M_MMAP_THRESHOLD = -3

Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seq", type=int, nargs="+", default=[512, 2048, 4096], help="tokens (default 512 2048 4096)")
    parser.add_argument("--heads", type=int, default=8, help="heads (default 8)")
    parser.add_argument("--width", type=int, default=64, help="features of a head (default 64)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of q, k and v (default bf16)")
    parser.add_argument("--rounds", type=int, default=7, help="times each is measured, in turn (default 7)")
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES), help="what to measure")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="lowerings to measure")
    parser.add_argument("--returned", action="store_true", help="leave the allocator as torch finds it, not as runs do")
    parser.add_argument("--grown", nargs=2, metavar=("CORE", "WAY"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.grown:
        print(grown(asked, *asked.grown))
        return
    if not asked.returned:
        keep_memory()
    shape = f"{asked.heads} heads of {asked.width}, {asked.dtype}, one thread"
    print(f"attention forward and backward: {shape}, freed memory {'returned' if asked.returned else 'kept'}")
    for seq in asked.seq:
        report(asked, seq)


def report(asked: argparse.Namespace, seq: int) -> None:
    """One table: every core in every way, with ratios of a round to other ways of the same core."""
    names = [(core, way) for core in asked.cores for way in asked.ways if way != "sdpa" or core not in NO_SDPA]
    found = timed({name: step_of(asked, *name, seq) for name in names}, asked.rounds)
    print(f"\n{seq} tokens, {asked.rounds} rounds; ratios are of CPU time, with the middle half\n")
    heads = ("core", "lowering", "CPU, ms", "wall, ms", *(f"of {way}" for way in WAYS[:3]), "memory, MiB")
    print(f"| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}")
    for core, way in names:
        times = [1e3 * statistics.median(column) for column in zip(*found[core, way], strict=True)]
        ratios = [ratio(found[core, way], found.get((core, base))) for base in WAYS[:3]]
        cells = (core, way, *(f"{time:.1f}" for time in times), *ratios, grown_apart(asked, core, way, seq))
        print(f"| {' | '.join(cells)} |", flush=True)


def ratio(times: list[tuple[float, float]], base: list[tuple[float, float]] | None) -> str:
    """Median and middle half of the ratios of rounds."""
    if base is None:
        return ""
    ratios = [cpu / other for (cpu, _), (other, _) in zip(times, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def step_of(asked: argparse.Namespace, core: str, way: str, seq: int) -> Step:
    """Forward and backward, compiled and warm."""
    lowering, _, compiled = way.partition(", ")
    module = core_of(asked, core, lowering)
    if compiled:
        module.compile(fullgraph=True, dynamic=False)
    inputs, grad = drawn(asked, seq)

    def step() -> None:
        module(*inputs).backward(grad)
        for x in inputs:
            x.grad = None

    step()
    return step


def core_of(asked: argparse.Namespace, core: str, lowering: str) -> nn.Module:
    text = CORE.format(heads=asked.heads, width=asked.width, **PLAIN | CORES[core])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core.yaml"
        path.write_text(text)
        module: nn.Module = bg.compile(path, lowering=lowering)
    return module


def drawn(asked: argparse.Namespace, seq: int) -> tuple[list[Tensor], Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape, dtype = (1, asked.heads, seq, asked.width), DTYPES[asked.dtype]
    q, k, v, grad = (torch.randn(shape, generator=draw).to(dtype) for _ in range(4))
    return [x.requires_grad_() for x in (q, k, v)], grad


def timed(steps: dict[tuple[str, str], Step], rounds: int) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Seconds of CPU and of wall clock; each round measures all, forwards and backwards in turn."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in ordered(list(steps), number):
            cpu, wall = time.process_time(), time.perf_counter()
            steps[name]()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return found


def ordered(names: list[tuple[str, str]], number: int) -> Iterator[tuple[str, str]]:
    return iter(names) if number % 2 == 0 else reversed(names)


def grown_apart(asked: argparse.Namespace, core: str, way: str, seq: int) -> str:
    """Mebibytes by which a process of its own grows in a step."""
    size = ["--heads", asked.heads, "--width", asked.width, "--dtype", asked.dtype, "--seq", seq]
    command = [sys.executable, __file__, "--grown", core, way, *map(str, size)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def grown(asked: argparse.Namespace, core: str, way: str) -> str:
    # Freed memory goes back to the system, so that the process shows what it needs.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    step = step_of(asked, core, way, asked.seq[0])
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = status("VmRSS")
    step()
    return f"{(status('VmHWM') - before) / MB:.0f}"


def status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()

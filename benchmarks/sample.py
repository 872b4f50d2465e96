"""Tokens a second that are written with the cache and without it, next to the rate at which weights can be read."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from measure import machine

import blockgraph as bg
from blockgraph.model import Model
from runners.trained import narrow
from runners.writing import Writer

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
STEPS = 8  # tokens of a round with the cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", default="gpt", help="a model (default gpt)")
    parser.add_argument("--size", default="medium", help="its size (default medium)")
    parser.add_argument("--seq", type=int, nargs="+", default=[128, 512, 2048], help="tokens before (128 512 2048)")
    parser.add_argument("--batch", type=int, default=1, help="texts at once (default 1)")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the activations (default fp32)")
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured, in turn (default 5)")
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    model = bg.compile(options.spec, size=options.size, cached=True).eval().requires_grad_(False)
    model.compute_dtype = dtype
    narrow(model, dtype)
    # Of a product's FLOPs half are multiply-adds, one with each weight; a row of an embedding is next to nothing.
    weights = bg.cost(model.graph).flops(batch=1, seq=1) // 2 * dtype.itemsize
    limit = options.batch / (weights / copied(weights))
    threads = f"threads: {torch.get_num_threads()}"
    print(f"{options.spec} {options.size}, {options.dtype}, batch {options.batch}, {threads};")
    print(f"{weights / 1e6:,.1f} MB of weights in products, read at the speed of a copy, give {limit:,.0f} tokens/s;")
    print(f"CPU time of the process, median of {options.rounds}; {machine()}\n")
    print("| tokens before | with cache, tokens/s | without, tokens/s | with / without | with / limit |")
    print("|---:|---:|---:|---:|---:|")
    for seq in options.seq:
        kept, anew = (rate(model, seq, options.batch, options.rounds, cached) for cached in (True, False))
        print(f"| {seq:,} | {kept:,.1f} | {anew:,.1f} | {kept / anew:,.1f} | {kept / limit:.2f} |", flush=True)


def rate(model: Model, seq: int, batch: int, rounds: int, cached: bool) -> float:
    """Tokens a second behind so many."""
    steps = STEPS if cached else 1
    vocab = model.graph.dims.sizes["vocab"].known or 0
    writer = Writer(model, seq + steps * rounds + 1, vocab, end=-1, cached=cached)
    new = writer.read(torch.arange(batch * seq).reshape(batch, seq) % vocab).argmax(-1, keepdim=True)

    def written() -> None:
        nonlocal new
        for _ in range(steps):
            new = writer.read(new).argmax(-1, keepdim=True)

    return batch * steps / statistics.median(seconds(written) for _ in range(rounds))


def copied(size: int) -> float:
    """Bytes a second that a copy of so many reads and writes."""
    source = torch.empty(size, dtype=torch.uint8).fill_(1)
    target = torch.empty_like(source)
    return 2 * size / statistics.median(seconds(lambda: target.copy_(source)) for _ in range(9))


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()

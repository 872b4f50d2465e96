"""Head and loss of a large vocabulary: time and memory of logits made whole and in parts, forward and backward."""

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable

import torch
from measure import grown, in_turn, machine, table
from torch import Tensor
from torch.nn import functional as F

from blockgraph.kernels.plain import linear
from runners.chunked import chunked_loss
from runners.loss import loss_for
from runners.speed import keep_memory

REFERENCE = "whole, eager"
WEIGHT = 1e-4  # of the z-loss
M_MMAP_THRESHOLD = -3
Step = Callable[[Tensor, Tensor, Tensor], None]


def main() -> None:
    """Print a table of times and peaks, or with --peak the bytes of one candidate."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("tokens", 2048), ("width", 1024), ("vocab", 256_000), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peak", choices=STEPS, help="print the bytes that this candidate takes beside its inputs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    given = inputs(asked.tokens, asked.width, asked.vocab)
    if asked.peak:
        # Freed memory goes back to the system, so that the process shows what it needs.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
        STEPS[asked.peak](*given)
        print(grown(lambda: STEPS[asked.peak](*given)))
        return
    keep_memory()
    print(f"{machine()}\n\n{asked.tokens} tokens, width {asked.width}, vocabulary {asked.vocab:,}, bf16 with z-loss\n")
    candidates = {
        name: lambda step=step: step(*given) for name, step in (STEPS | {"matrix products": products}).items()
    }
    in_turn(candidates, 1)  # warm, and compiled
    times = in_turn(candidates, asked.rounds)
    print(table(times, REFERENCE, {"peak, MiB": {name: f"{peak(name) / 2**20:,.0f}" for name in STEPS}}))


def inputs(tokens: int, width: int, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden values in bf16, master weights in fp32, targets."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=draw).bfloat16().requires_grad_()
    weight = (0.02 * torch.randn(vocab, width, generator=draw)).requires_grad_()
    return hidden, weight, torch.randint(vocab, (tokens,), generator=draw)


def whole(compiled: bool) -> Step:
    loss = loss_for(WEIGHT, compiled)
    return lambda x, weight, targets: backward(loss(linear(x, weight), targets), x, weight)


def parts(compiled: bool) -> Step:
    loss = chunked_loss(None, compiled)
    return lambda x, weight, targets: backward(loss((x, weight), targets), x, weight)


def torch_own(x: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Torch's, which has no z-loss and gives a bf16 loss, in chunks of its own choice."""
    options = torch.nn.LinearCrossEntropyOptions(chunking_method="vocab_chunking")
    backward((F.linear_cross_entropy(x, weight.to(x.dtype), targets, options=options), 0.0), x, weight)


def backward(losses: tuple[Tensor, Tensor | float], x: Tensor, weight: Tensor) -> None:
    (losses[0] + WEIGHT * losses[1]).backward()
    x.grad = weight.grad = None


def products(x: Tensor, weight: Tensor, targets: Tensor) -> None:
    """The three matrix products alone, a sixteenth of the vocabulary at a time: the limit of any whole head."""
    with torch.no_grad():
        for part in weight.bfloat16().chunk(16):
            logits = x @ part.mT
            logits @ part, logits.mT @ x


STEPS: dict[str, Step] = {
    REFERENCE: whole(compiled=False),
    "whole, compiled": whole(compiled=True),
    "in parts, eager": parts(compiled=False),
    "in parts, compiled": parts(compiled=True),
}


def peak(name: str) -> int:
    """Bytes of a candidate, found in a process of its own."""
    done = subprocess.run([sys.executable, *sys.argv, "--peak", name], check=True, capture_output=True, text=True)
    return int(done.stdout)


if __name__ == "__main__":
    main()

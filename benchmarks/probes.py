"""Processor time of a probed step next to a plain one, by what is probed; one does not notice who else computes."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import blockgraph
from blockgraph.probes import GROUPS
from runners import optim
from runners.config import Log, Optim
from runners.launch import Launch
from runners.loss import cross_entropy
from runners.probing import Probing
from runners.speed import keep_memory
from runners.trainer import DTYPES
from runners.world import World

ASKED: dict[str, list[str]] = {
    "the default": Log().probes,
    **{group: [group] for group in GROUPS},
    "everything": ["**"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind, taken in turn (default: 15)")
    parser.add_argument("--block", default="qk_norm", help="of the model (default: qk_norm)")
    parser.add_argument("--lowering", default="explicit", help="of the attention (default: explicit)")
    parser.add_argument("--seq", type=int, default=256, help="tokens of a sequence (default: 256)")
    parser.add_argument("--batch", type=int, default=16, help="sequences of a step (default: 16)")
    parser.add_argument("--precision", choices=DTYPES, default="bf16", help="of the compute (default: bf16)")
    asked = parser.parse_args()
    keep_memory()
    log = Log()
    print(f"gpt block={asked.block} n_layers=4 d_model=128 vocab=4096, {asked.batch} x {asked.seq} tokens,")
    print(f"{asked.precision}, attention {asked.lowering}, threads: {torch.get_num_threads()}\n")
    print(
        f"| probed | series | probed step of a plain one | of the run, every {log.probe} steps |\n|---|---:|---:|---:|"
    )
    for name, words in ASKED.items():
        step, count = prepared(asked, words)
        extra = compared(step, asked.rounds)
        print(f"| {name} | {count} | {1 + extra:.3f} | {extra / (log.probe + extra):.2%} |", flush=True)


def prepared(asked: argparse.Namespace, words: list[str]) -> tuple[Callable[[bool], None], int]:
    """A step of training that is probed if it is told so, warm, and the count of its series."""
    sizes = {"n_layers": 4, "d_model": 128, "n_heads": 4, "vocab": 4096}
    model = blockgraph.compile("gpt", block=asked.block, lowering=asked.lowering, probes=words, **sizes)
    model.compute_dtype = DTYPES[asked.precision]
    optimizer = optim.make(model, model.weights, Optim())
    probing = Probing(model, World(Launch(), torch.device("cpu")))
    tokens = torch.randint(4096, (asked.batch, asked.seq + 1), generator=torch.Generator().manual_seed(0))

    def step(probed: bool) -> None:
        if probed:
            probing.start()
        taken(model, tokens, probing)
        optimizer.step()
        if probed:
            probing.updates(optimizer)
        probing.finish()
        optimizer.zero_grad()

    for probed in (False, True):
        step(probed)
    return step, len(model.probes.series)


def taken(model: torch.nn.Module, tokens: Tensor, probing: Probing) -> None:
    """The gradients of a batch, and what is recorded of them."""
    logits, targets = model(tokens[:, :-1]), tokens[:, 1:]
    loss, _ = cross_entropy(logits, targets)
    if probing.active:
        probing.log_z(loss, logits, targets)
    loss.backward()
    if probing.active:
        probing.fold()
        probing.weights()


def compared(step: Callable[[bool], None], rounds: int) -> float:
    """What a probed step takes more than the plain one before it, as a share of that."""
    pairs = ((timed(step, False), timed(step, True)) for _ in range(rounds))
    return statistics.median((probed - plain) / plain for plain, probed in pairs)


def timed(step: Callable[[bool], None], probed: bool) -> float:
    began = time.process_time()
    step(probed)
    return time.process_time() - began


if __name__ == "__main__":
    main()

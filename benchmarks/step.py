"""Time of a training step of `gpt`: ours and the peers', eager and compiled, over that of its matrix products."""

import argparse
import warnings
from collections.abc import Callable, Sequence

import torch
from measure import in_turn, machine, table
from peers import PEERS, Peer, Shape, hand, missing
from torch import Tensor
from torch.nn import functional as F

import blockgraph
from blockgraph.fused import FUSIONS
from blockgraph.fusion import Target
from blockgraph.kernels.native import can_be_native
from blockgraph.passes import fuse
from runners import sharding
from runners.config import RunConfig
from runners.launch import Launch
from runners.speed import keep_memory
from runners.trainer import Trainer
from runners.world import World

REFERENCE = "by hand, SDPA, eager"
TOKENS = 2048  # of a step
CPU = torch.device("cpu")


def main() -> None:
    """Print a table for each length of the sequence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seq", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--block", nargs="+", default=["baseline", "soft_cap"], help="ours are measured with each")
    parser.add_argument("--layers", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    warnings.simplefilter("ignore")  # of the peers
    print(machine())
    for seq in asked.seq:
        shape = Shape(seq, TOKENS // seq, layers=asked.layers)
        print(f"\n{shape}, bf16, AdamW, a step with clipping\n")
        steps = candidates(shape, asked.block)
        for _ in range(2):
            in_turn(steps, 1)  # compiled and warm
        print(table(in_turn(steps, asked.rounds), REFERENCE), flush=True)
        for told in sorted({missing(package) for package, _ in PEERS.values()} - {""}):
            print(f"\n{told}")
        torch.compiler.reset()


def candidates(shape: Shape, blocks: list[str]) -> dict[str, Callable[[], object]]:
    """By name the step of each, eager and compiled; that of the reference is the first."""
    found: dict[str, Callable[[], object]] = {}
    for way, compiled in (("eager", False), ("compiled", True)):
        for name, explicit, cap in (("SDPA", False, None), ("explicit", True, None), ("explicit, capped", True, 50.0)):
            found[f"by hand, {name}, {way}"] = trained(shape, hand(shape, explicit, cap), compiled)
        for block in blocks:
            found[f"blockgraph, {block}, {way}"] = ours(shape, block, compiled)
        for name, (package, make) in PEERS.items():
            if not missing(package):
                found[f"{name}, {way}"] = trained(shape, make(shape), compiled)
    return found | {"its matrix products alone": products(shape)}


class Drawn:
    """Tokens drawn once, as the runner asks for them."""

    tokens = 10**9

    def __init__(self, shape: Shape):
        draw = torch.Generator().manual_seed(0)
        self.drawn = torch.randint(shape.vocab, (shape.batch, shape.seq + 1), generator=draw)
        self.train = self.validation = self

    def shuffled(self, seed: int) -> "Drawn":
        return self

    def batch(self, first: int, count: int) -> Tensor:
        return self.drawn


def ours(shape: Shape, block: str, compiled: bool) -> Callable[[], object]:
    """A step as the runner takes it."""
    made = trainer(shape, block, compiled)
    return lambda: made.step(1)


def trainer(shape: Shape, block: str, compiled: bool, precision: str = "bf16", probes: Sequence[str] = ()) -> Trainer:
    """What takes the runner's steps."""
    config = RunConfig.model_validate({
        "data": {"seq": shape.seq},
        "train": {"batch": shape.batch, "steps": 10**6, "compile": compiled, "precision": precision},
    })  # fmt: skip
    sizes = {"n_layers": shape.layers, "d_model": shape.width, "n_heads": shape.heads, "vocab": shape.vocab}
    graph = blockgraph.load("gpt", block=block, **sizes)
    target = Target(shape.seq, config.train.precision, CPU.type, compiled, can_be_native())
    graph = fuse(graph, FUSIONS, target=target)
    world = World(Launch(), CPU)
    with torch.device("meta"):
        model = blockgraph.compile(graph, probes=probes)
    sharding.place(model, config.train, world, compiled)
    return Trainer(model, config, Drawn(shape), world, compiled)


def trained(shape: Shape, peer: Peer, compiled: bool) -> Callable[[], object]:
    """A step of another's model in its usual way: autocast, fused AdamW, clipping, and what fits compiled."""
    optimizer = torch.optim.AdamW(peer.model.parameters(), fused=True)
    logits, loss = peer.logits, mean_loss
    if compiled:
        loss = torch.compile(loss)
        for block in peer.blocks:
            block.compile()
        if not peer.blocks:
            peer.model.compile()
    tokens = Drawn(shape).drawn

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(logits(tokens[:, :-1]), tokens[:, 1:])
        value.backward()
        torch.nn.utils.clip_grad_norm_(peer.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def products(shape: Shape) -> Callable[[], object]:
    """Every matrix product of a step, forward and backward, whole attention scores included, and nothing else."""
    width, tokens, draw = shape.width, TOKENS, torch.Generator().manual_seed(0)
    sizes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    weights = [torch.randn(size, generator=draw).bfloat16() for size in sizes]
    head = torch.randn(shape.vocab, width, generator=draw).bfloat16()
    given = {size: torch.randn(tokens, size, generator=draw).bfloat16() for size in {width, 3 * width, 4 * width}}
    given[shape.vocab] = torch.randn(tokens, shape.vocab, generator=draw).bfloat16()
    heads = torch.randn(shape.batch, shape.heads, shape.seq, width // shape.heads, generator=draw).bfloat16()

    def linear(weight: Tensor) -> None:
        rows, columns = weight.shape
        given[columns] @ weight.mT, given[rows] @ weight, given[rows].mT @ given[columns]

    def step() -> None:
        for _ in range(shape.layers):
            for weight in weights:
                linear(weight)
            scores = heads @ heads.mT
            scores @ heads, heads @ heads.mT, scores.mT @ heads, scores @ heads, scores.mT @ heads
        linear(head)

    return step


if __name__ == "__main__":
    main()

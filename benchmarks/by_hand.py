"""The cells of a study under the blocks that tests have by hand: the same held-out loss, gradients, and training."""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from oracle import METHODS, OracleGPT, SigmaReparamLinear, power_iteration

from blockgraph.ops import OPS
from runners import runfile, study
from runners.checkpoint import Checkpoints
from runners.inputs import build, lowered_for, prepare
from runners.launch import Launch
from runners.trainer import Trainer
from runners.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="directory of a study of the paper's blocks that is over")
    parser.add_argument("--train", nargs="*", default=[], metavar="CELL", help="cells to train again by hand")
    parser.add_argument("--seed", type=int, help="compare the cells of this seed alone")
    asked = parser.parse_args()
    cells = [cell for cell in study.read(asked.study).cells if cell.state == "finished"]
    if asked.seed is not None:
        cells = [cell for cell in cells if cell.settings["train.seed"] == asked.seed]
    if asked.train:
        told("cell", "held-out loss", "trained by hand", "difference", "training losses of 100 steps, apart")
        for cell in cells:
            if cell.name in asked.train:
                told(*trained(cell))
        return
    compared = [(cell, *at_its_end(cell)) for cell in cells]
    told("block", "cells", "held-out loss, apart", "gradients, ours from fp64 by hand", "fp32 by hand from fp64")
    for method in METHODS:
        own = [found for found in compared if found[0].settings["block"] == method]
        if not own:
            continue
        loss, ours, theirs = (max(found[place] for found in own) for place in (1, 2, 3))
        told(method, str(len(own)), f"{loss:.1e}", f"{ours:.1e}", f"{theirs:.1e}")


def told(*cells: str) -> None:
    """A row of the table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def at_its_end(cell: study.Cell) -> tuple[float, float, float]:
    """Loss by hand less that of the run, and the error of its gradients and of the hand's own fp32, next to fp64.

    Gradients are those of one batch by all parameters, as a share of their norm.
    """
    trainer = trainer_of(cell)
    saved = Checkpoints(cell.directory / "checkpoints", 2).newest(print)
    assert saved is not None
    trainer.restore(saved.tensors("model"), saved.tensors("optim"))
    hand = by_hand(cell, trainer)
    loss = abs(held_out(hand, trainer) - cell.facts["val_loss"])
    tokens = trainer.validation.batch(0, 16)
    exact, single, ours = (gradients(m, tokens) for m in (by_hand(cell, trainer).double(), hand, trainer.model))
    return loss, error(ours, exact), error(single, exact)


def trained(cell: study.Cell) -> tuple[str, ...]:
    """The whole run again in a plain loop: AdamW, clipping, warm-up and cosine written out, from the same weights."""
    trainer = trainer_of(cell)
    config, model = trainer.config, by_hand(cell, trainer)
    some = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": some, "weight_decay": config.optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, betas=(0.9, 0.95), eps=config.optim.eps, foreach=True)
    logged = {row["step"]: row["loss"] for row in map(dict, _rows(cell))}
    apart = []
    for number in range(1, config.train.steps + 1):
        tokens = trainer.train.batch((number - 1) * config.train.batch, config.train.batch)
        loss = loss_of(model, tokens)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = config.optim.lr * share(number, config.schedule.warmup or 0, config.train.steps)
        optimizer.step()
        renew(model)
        if number in logged and number <= 100:
            apart.append(abs(loss.item() - logged[number]))
    found, ours = held_out(model, trainer), cell.facts["val_loss"]
    return cell.name, f"{ours:.4f}", f"{found:.4f}", f"{found - ours:+.4f}", f"{max(apart):.1e}"


def share(step: int, warmup: int, steps: int, final: float = 0.1) -> float:
    """Of the peak learning rate: a line up, then a cosine down."""
    if step <= warmup:
        return step / warmup
    return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


@torch.no_grad()
def renew(model: nn.Module) -> None:
    """One power iteration of every reparametrised linear, after the optimiser's step."""
    for module in model.modules():
        if isinstance(module, SigmaReparamLinear):
            module.u, module.v = power_iteration(module.weight, module.u, module.v)


def trainer_of(cell: study.Cell) -> Trainer:
    """The run of a cell at its first step."""
    run = runfile.load(cell.directory.with_name(f"{cell.name}.yaml"))
    world = World(Launch(), torch.device("cpu"))
    return build(run, lowered_for(run, prepare(run, OPS), world), world)


def by_hand(cell: study.Cell, trainer: Trainer) -> OracleGPT:
    """The hand-written model with the trainer's weights."""
    sizes = {name: trainer.model.graph.dims.sizes[name].known for name in ("vocab", "n_layers", "d_model", "n_heads")}
    model = OracleGPT(cell.settings["block"], **sizes)
    state = trainer.tensors()["model"]
    model.load_state_dict({name: state[name].clone() for name in model.state_dict()})
    return model


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def held_out(model: nn.Module, trainer: Trainer) -> float:
    """Mean loss over the same held-out sample, 64 sequences at a time."""
    firsts = range(0, trainer.held_out, 64)
    counts = [min(64, trainer.held_out - first) for first in firsts]
    losses = (loss_of(model, trainer.validation.batch(a, n)).item() * n for a, n in zip(firsts, counts, strict=True))
    return math.fsum(losses) / trainer.held_out


def gradients(model: nn.Module, tokens: Tensor) -> Tensor:
    model.zero_grad()
    loss_of(model, tokens).backward()
    found = sorted(model.named_parameters())
    return torch.cat([p.grad.double().flatten() for _, p in found if p.grad is not None])


def error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def _rows(cell: study.Cell) -> list[dict[str, float]]:
    from runners import metrics

    return metrics.rows(cell.metrics)


if __name__ == "__main__":
    main()

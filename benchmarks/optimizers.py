"""Time of an optimiser's step next to torch's fused AdamW, for the parameters of a model."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import blockgraph
from runners import optim
from runners.config import Optim
from runners.speed import keep_memory

EVICTED = 2**24  # fp32 numbers written between two steps, as a backward pass does: more than a cache holds
REFERENCE = "AdamW, torch fused"


class PlainLoop(torch.optim.AdamW):
    """Update clipping as one writes it down, an operation on a whole tensor at a time."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            (beta1, beta2), lr, eps = group["betas"], group["lr"], group["eps"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                m = state["exp_avg"].lerp_(p.grad, 1 - beta1)
                v = state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                m_hat, v_hat = m / (1 - beta1 ** state["step"]), v / (1 - beta2 ** state["step"])
                rms = (p.grad**2 / v_hat.clamp(min=eps**2)).mean().sqrt().item()
                clipped = lr / max(1.0, rms)
                p.sub_(clipped * group["weight_decay"] * p).sub_(clipped * m_hat / (v_hat.sqrt() + eps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="medium", help="of the model gpt (default: medium)")
    parser.add_argument("--rounds", type=int, default=40, help="steps of each optimiser, taken in turn (default: 40)")
    asked = parser.parse_args()
    keep_memory()
    steps = {name: prepared(asked.size, make) for name, make in MADE.items()}
    report(asked.size, timed(steps, asked.rounds))


def prepared(size: str, make: Callable[[nn.Module], torch.optim.Optimizer]) -> Callable[[], object]:
    """The step of an optimiser over parameters of its own, with gradients, warm."""
    model = blockgraph.compile("gpt", block="qk_norm", size=size)
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=draw)
    made = make(model)
    for _ in range(3):
        made.step()
    return made.step


def configured(**settings: object) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: optim.make(model, model.weights, Optim.model_validate(settings))


def timed(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step; each round takes one step of each."""
    evicted, found = torch.zeros(EVICTED), {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            evicted.add_(1)
            began = time.perf_counter()
            step()
            found[name].append(1e3 * (time.perf_counter() - began))
    return found


def report(size: str, found: dict[str, list[float]]) -> None:
    count = sum(parameter.numel() for parameter in blockgraph.compile("gpt", size=size).parameters())
    print(f"gpt size={size}: {count:,} parameters in fp32, threads: {torch.get_num_threads()}\n")
    print("| optimiser | median, ms | middle half, ms | of fused AdamW |\n|---|---:|---:|---:|")
    for name, times in found.items():
        low, middle, high = statistics.quantiles(times, n=4)
        ratio = statistics.median(time / base for time, base in zip(times, found[REFERENCE], strict=True))
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {ratio:.2f} |")


MADE = {
    REFERENCE: configured(name="adamw"),
    "StableAdamW": configured(name="stable_adamw"),
    "StableAdamW, independent decay": configured(name="stable_adamw", decay="independent"),
    "StableAdamW, plain loop": lambda model: PlainLoop(model.parameters(), lr=3e-3, betas=(0.9, 0.95)),
    "Muon for the blocks, AdamW for the rest": configured(name="muon"),
}

if __name__ == "__main__":
    main()

"""Made-up loss curves of known kinds, and what the rules of a run say about each."""

import math
import random

from runners.config import Train
from runners.trainer import Step
from runners.watch import Watch

STEPS, WARMUP = 1200, 100
# Why the run ends, if it does, and whether spikes were counted before.
CLEAR = {
    "clean": ("", False),
    "spike": ("", True),
    "plateau": ("", False),
    "slow rise": ("loss_above", False),
    "oscillation": ("", False),
    "warm-up bump": ("", False),
    "NaN tail": ("non_finite", False),
}
KINDS = tuple(CLEAR)


def trace(kind, seed):
    """Losses of a run that starts near log 20, learns, and then does what its kind says; seeds move and scale it."""
    draw = random.Random(f"{kind} {seed}")
    at, size = draw.randint(400, 900), draw.uniform(0.8, 1.2)
    noise = draw.uniform(0.01, 0.06)
    for step in range(STEPS):
        yield KIND[kind](step, at, size) + draw.gauss(0, noise)


def _healthy(step, at, size):
    return 2 + size * math.exp(-step / 250)


KIND = {
    "clean": _healthy,
    "spike": lambda step, at, size: _healthy(step, at, size) + (3 * size if 0 <= step - at < 3 else 0),
    "plateau": lambda step, at, size: _healthy(min(step, at), at, size),
    "slow rise": lambda step, at, size: 3 + 10 * min(1, step / 1000),
    "oscillation": lambda step, at, size: _healthy(step, at, size) + 0.15 * size * math.sin(step / 6),
    "warm-up bump": lambda step, at, size: _healthy(step, at, size) + 0.4 * size * math.exp(-(((step - 80) / 25) ** 2)),
    "NaN tail": lambda step, at, size: _healthy(step, at, size) if step < at else math.nan,
}


def judged(losses):
    """The rule that ends the run, and whether a spike was seen; the gradient norm stays calm."""
    watch = Watch(Train())
    for number, loss in enumerate(losses, 1):
        step = Step(number, loss, 0.0, 1.0)
        ended = watch.fault(step) or watch.verdict(step)
        if ended:
            return ended.rule, bool(watch.spikes.count)
    return "", bool(watch.spikes.count)

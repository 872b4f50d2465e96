"""Learning-rate factor of every step: a linear warm-up, then a decay."""

import math

from runners.config import RunConfig


def factor(config: RunConfig, step: int) -> float:
    """What the peak learning rate is multiplied by at `step`, counted from 1 to `train.steps`.

    It grows by equal amounts to 1 at the last step of the warm-up; the last step of the run has `final`.
    """
    schedule, steps = config.schedule, config.train.steps
    warmup = schedule.warmup_steps(config.train.batch)
    if step <= warmup:
        return step / warmup
    if schedule.decay == "constant":
        return 1.0
    start = steps - schedule.cooldown_steps(steps) if schedule.decay == "wsd" else warmup
    progress = max(0, step - start) / (steps - start)
    left = 1 - progress if schedule.decay == "wsd" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * left

"""How much the final loss depends on the learning rate (Wortsman et al., arXiv 2309.14322, section 2.2)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

Convention = Literal["points", "intervals"]
Curve = Mapping[float, float]  # final loss, in nats, at each learning rate

WINDOW = (3e-4, 3e-1)  # the paper's range of learning rates
COUPLED = ((1e-4, 1e-1), WINDOW)  # with coupled decay the paper reports the smaller S of these two


def sensitivity(curve: Curve, initial: float, convention: Convention = "points") -> float:
    """S: the mean over the grid of min(loss, initial loss) - best loss, in nats.

    A loss that is not finite enters as the initial loss. The paper's mean is over the n `points` of the grid; a public
    implementation divides by its n - 1 `intervals`. S is blind to the level of the loss: a model that never learns has
    S = 0, so it is read beside its curve. Raises `ValueError` where fewer than two learning rates were run.
    """
    if len(curve) < 2:
        raise ValueError(f"the sensitivity needs two learning rates or more, found {len(curve)}")
    losses = np.array([curve[rate] for rate in sorted(curve)])
    capped = np.where(np.isfinite(losses), np.minimum(losses, initial), initial)
    return float((capped - capped.min()).sum() / (len(losses) - (convention == "intervals")))


def within(curve: Curve, window: tuple[float, float]) -> dict[float, float]:
    """The part of a curve whose learning rates lie in a window, its ends included up to rounding."""
    low, high = window
    return {rate: loss for rate, loss in curve.items() if low * (1 - 1e-9) <= rate <= high * (1 + 1e-9)}

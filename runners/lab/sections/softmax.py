"""Figure 3 of 2410.16682, computed: large logits turn a softmax into a one-hot code, and a cap prevents that."""

from typing import Any

import numpy as np

from runners.lab.lab import Lab
from runners.lab.plots import figure, label, look
from runners.lab.probed import Array
from runners.lab.section import Section, Table

TITLE = "What large logits do to a softmax (Figure 3)"
COUNT, SEED = 16, 0
SCALES = (1.0, 10.0, 40.0)
CAP = 10.0
TEXT = (
    f"{COUNT} logits drawn from the uniform distribution between -0.5 and 0.5 (seed {SEED}), scaled as in section 3 of "
    f"the paper, and the largest ones capped: {CAP:g} tanh(x / {CAP:g}). Computed here; it does not depend on the "
    f"study."
)


def section(lab: Lab) -> Section:
    """The figure, and the entropy of each distribution."""
    shown = distributions()
    rows = tuple((name, f"{entropy(p):.2f}", f"{p.max():.3f}", str(int((p > 0.01).sum()))) for name, p in shown.items())
    table = Table(
        f"How sharp each distribution is; even would be {np.log(COUNT):.2f} nats.",
        ("logits", "entropy (nats)", "largest weight", "weights above 0.01"),
        rows,
    )

    def draw(axes: Any) -> None:
        (ax,) = axes.flat
        for index, (name, p) in enumerate(shown.items()):
            ax.plot(range(COUNT), p, **look(index), label=name)
        label(ax, "index of the logit (1)", "softmax output (share)")

    words = "; ".join(
        f"{name}: entropy {entropy(p):.2f} nats, largest weight {p.max():.3f}" for name, p in shown.items()
    )
    caption = "Softmax of the same logits at three scales, and with the largest capped."
    return Section(TITLE, (TEXT,), (table,), (figure("softmax", caption, f"{caption} {words}.", draw, height=2.9),))


def distributions() -> dict[str, Array]:
    """The four distributions of the paper's figure, by name."""
    x = np.random.default_rng(SEED).uniform(-0.5, 0.5, COUNT)
    largest = SCALES[-1] * x
    capped = {f"× {SCALES[-1]:g}, capped at {CAP:g}": softmax(CAP * np.tanh(largest / CAP))}
    return {f"× {scale:g}": softmax(scale * x) for scale in SCALES} | capped


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x))."""
    powers = np.exp(x - x.max())
    shares: Array = powers / powers.sum()
    return shares


def entropy(p: Array) -> float:
    """-sum(p log p) in nats; 0 log 0 is 0."""
    kept = p[p > 0]
    return float(-(kept * np.log(kept)).sum())

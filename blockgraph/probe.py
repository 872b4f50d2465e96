"""What can be recorded of a node: quantities of a value or of a gradient, by name."""

from dataclasses import dataclass
from typing import Literal

Statistic = Literal["l2", "rms", "max", "mean", "std"]
Group = Literal["norms", "attention", "outputs", "linears", "weights", "updates", "experts"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One series: the last word of its name, which statistic it is, and what it means."""

    name: str
    statistic: Statistic
    groups: tuple[Group, ...]
    meaning: str
    unit: str = "1"


@dataclass(frozen=True, slots=True)
class Probe:
    """What an op lets a run record: `text` gives [sum, l2 norm, maximum, count] of some tensor, in fp32.

    In `text`, `{out}` is the op's value, and `{x}`, `{weight}`, `{cap}` its ports, tensors and numbers by name. Where
    `gradient` names a port, or is `out`, the gradient on that edge is recorded instead. `name` stands in the series'
    names between node and quantity. `entries` is the size of what is the same in every forward pass, such as a weight.
    Attention is recorded of the last queries alone, unless it says `every_query`.
    """

    name: str
    quantities: tuple[Quantity, ...]
    text: str = ""
    gradient: str = ""
    entries: int | None = None
    every_query: bool = False


def sizes(what: str, *groups: Group, unit: str = "1") -> tuple[Quantity, ...]:
    """L2 norm, RMS and maximum of something; of several groups the first one has the L2 norm alone."""
    return (
        Quantity("l2", "l2", groups, f"L2 norm of {what}", unit),
        Quantity("rms", "rms", groups[-1:], f"RMS of {what}", unit),
        Quantity("max", "max", groups[-1:], f"largest absolute value of {what}", unit),
    )


def value(name: str, text: str, what: str, *groups: Group, entries: int | None = None) -> Probe:
    """Sizes of a value."""
    return Probe(name, sizes(what, *groups), f"moments({text})", entries=entries)


def gradient(name: str, edge: str, what: str, *groups: Group) -> Probe:
    """Sizes of the gradient of the mean loss on an edge."""
    return Probe(name, sizes(f"the gradient by {what}", *groups, unit="nats"), gradient=edge)


def average(text: str, name: str, meaning: str, unit: str = "share") -> Probe:
    """The mean of something, as a quantity of the node itself."""
    return Probe("", (Quantity(name, "mean", ("attention",), meaning, unit),), text)


VALUE = "moments({out})"
OUTPUT = Probe(
    "",
    (
        Quantity("rms", "rms", ("outputs",), "RMS of the output"),
        Quantity("max", "max", ("outputs",), "largest absolute value of the output"),
        Quantity("mean", "mean", ("outputs",), "mean of the output"),
        Quantity("std", "std", ("outputs",), "standard deviation of the output"),
    ),
    VALUE,
)

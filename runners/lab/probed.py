"""What the probes of a trial recorded, found by layer and quantity instead of by an architecture's names."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runners.lab.trials import Trial, distinct
from runners.series import layer_of

LOGIT = "largest product"  # how the probes' index begins what a product of queries and keys means
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """One quantity of one trial: its values at the steps where it was recorded."""

    steps: NDArray[np.int64]
    values: Array

    @property
    def last(self) -> float:
        """The last value."""
        return float(self.values[-1])

    def at(self, step: int) -> float:
        """The value at the last recorded step up to `step`."""
        return float(self.values[np.searchsorted(self.steps, step, side="right") - 1])


def course(trial: Trial, name: str) -> Course | None:
    """A series by its name, without the steps at which it was not recorded; None where it never was."""
    if trial.series is None or name not in trial.series:
        return None
    values = np.asarray(trial.series[name], float)
    kept = ~np.isnan(values)
    return Course(trial.series.steps[kept], values[kept]) if kept.any() else None


def layers(trial: Trial, quantity: str) -> list[int]:
    """The layers of which a quantity such as `.y.l2` was recorded."""
    found = trial.series.names if trial.series else ()
    numbers = (layer_of(name) for name in found if name.endswith(quantity))
    return sorted({number for number in numbers if number is not None})


def sites(trial: Trial, layer: int, quantity: str) -> list[str]:
    """The nodes of a layer of which a quantity was recorded, in running order."""
    found = trial.series.names if trial.series else ()
    names = (name.removesuffix(quantity) for name in found if name.endswith(quantity) and layer_of(name) == layer)
    return distinct(names)


def short(site: str) -> str:
    """A node's name within its layer: `attn.qkv` of `layers.3.attn.qkv`."""
    words = site.split(".")
    number = next((index for index, word in enumerate(words) if word.isdecimal()), -1)
    return ".".join(words[number + 1 :])


def logits(trial: Trial) -> dict[int, str]:
    """The series of the largest attention logit of each layer; of several nodes the first."""
    columns = trial.series.columns if trial.series else ()
    names = [column.name for column in columns if column.meaning.startswith(LOGIT)]
    return {layer: name for name in reversed(names) if (layer := layer_of(name)) is not None}


def logit(trial: Trial, layer: int = 0) -> Course | None:
    """The largest attention logit of a layer."""
    name = logits(trial).get(layer)
    return course(trial, name) if name else None


def largest(trial: Trial) -> float | None:
    """The largest attention logit of any layer at the end of a run; None where none was recorded, or none is finite."""
    ends = [seen.last for layer in range(trial.depth) if (seen := logit(trial, layer))]
    return max((value for value in ends if 0 < value < math.inf), default=None)


def common_step(courses: list[Course]) -> int:
    """The last step that all of them reached. Raises `ValueError` for none."""
    return int(min(each.steps[-1] for each in courses))

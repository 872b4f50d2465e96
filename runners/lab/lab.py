"""A study as its sections read it: trials by arm, size, learning rate and seed, each with its verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median

from runners.lab.trials import Trial, distinct
from runners.studies.stability import Edge, edge, verdicts
from runners.study import Study

REFERENCES = ("qk_norm", "baseline")  # what others are compared with, the first of them that the study has


@dataclass(frozen=True)
class Lab:
    """A study and its trials.

    `margin` is what the verdict allows in nats where the study gives none of its own, `layer` the one whose norms are
    drawn.
    """

    study: Study
    trials: tuple[Trial, ...]
    margin: float
    layer: int = 1

    @cached_property
    def arms(self) -> list[str]:
        """What was compared, in the order of the study."""
        return distinct(trial.arm for trial in self.trials)

    @cached_property
    def sizes(self) -> list[str]:
        """Sizes by their number of parameters, smallest first."""
        return distinct(trial.size for trial in sorted(self.trials, key=lambda trial: trial.parameters))

    @cached_property
    def rates(self) -> list[float]:
        """All learning rates, lowest first."""
        return sorted({trial.lr for trial in self.trials})

    def sized(self, size: str) -> str:
        """A size as the end of a caption; nothing where the study has one size."""
        return f", {size}" if len(self.sizes) > 1 else ""

    @property
    def seeds(self) -> list[int]:
        """All seeds."""
        return sorted({trial.seed for trial in self.trials})

    def of(
        self, arm: str | None = None, size: str | None = None, lr: float | None = None, over: bool = True
    ) -> list[Trial]:
        """The trials of an arm, a size and a learning rate, where these are given; with `over`, those that ended."""
        return [
            trial for trial in self.trials
            if arm in (None, trial.arm) and size in (None, trial.size) and lr in (None, trial.lr)
            and (not over or trial.loss is not None)
        ]  # fmt: skip

    def converged(self, trial: Trial, margin: float | None = None) -> bool:
        """The verdict on a trial that ended, by the rule that `rule` states, or with another margin."""
        return self._verdicts(self._margin if margin is None else margin)[trial.cell.name]

    def ceilings(self, arm: str, size: str, margin: float | None = None) -> dict[int, Edge]:
        """Where the stable learning rates of each seed end."""
        found: dict[int, dict[float, bool]] = {}
        for trial in self.of(arm, size):
            found.setdefault(trial.seed, {})[trial.lr] = self.converged(trial, margin)
        return {seed: edge({}, outcomes) for seed, outcomes in sorted(found.items())}

    def losses(self, arm: str, size: str, lr: float) -> dict[int, float]:
        """Final validation loss of each seed, infinite where it diverged."""
        return {trial.seed: trial.loss for trial in self.of(arm, size, lr) if trial.loss is not None}

    def capped(self, arm: str, size: str, lr: float) -> dict[int, float]:
        """Final validation loss of each seed, none above the initial one, which stands for runs that diverged.

        Where no initial loss is known, those that diverged are left out.
        """
        initial = self.initial(arm, size)
        cap = math.inf if initial is None else initial
        found = self.losses(arm, size, lr).items()
        return {seed: least for seed, loss in found if math.isfinite(least := min(loss, cap))}

    def curve(self, arm: str, size: str) -> dict[float, float]:
        """Median over seeds of the final loss, at each learning rate that was run."""
        found = {lr: self.losses(arm, size, lr) for lr in self.rates}
        return {lr: median(losses.values()) for lr, losses in found.items() if losses}

    def initial(self, arm: str, size: str) -> float | None:
        """Mean over the trials of the loss before any update, in nats."""
        found = [trial.initial for trial in self.of(arm, size) if trial.initial is not None]
        return fmean(found) if found else None

    def best(self, arm: str, size: str) -> float | None:
        """The learning rate with the lowest median loss; None where nothing converged."""
        curve = {lr: loss for lr, loss in self.curve(arm, size).items() if math.isfinite(loss)}
        return min(curve, key=curve.__getitem__) if curve else None

    def parameters(self, size: str) -> int:
        """Parameters in the layers at a size: of the reference, where the arms differ."""
        found = self.of(self.reference, size, over=False) or self.of(size=size, over=False)
        return found[0].parameters

    @cached_property
    def reference(self) -> str:
        """The arm that others are compared with."""
        return next((name for name in REFERENCES if name in self.arms), self.arms[0])

    @property
    def allowed(self) -> float:
        """Nats that a final loss may lie above the lowest at a lower rate, where the study's rule has no such margin
        too."""
        return self.margin if self._margin is None else self._margin

    @property
    def rule(self) -> str:
        """What counts as diverged, in words."""
        rule, told = self.study.rule, "a loss or a gradient norm was not finite"
        if rule["window"]:
            bound = f"{rule['loss_above']:g}" if rule["loss_above"] is not None else f"its first + {rule['margin']:g}"
            told += f", or the smoothed training loss stayed above {bound} nats for {rule['window']} steps"
        if rule["val_above"] is not None:
            told += f", or the final validation loss is above {rule['val_above']:g} nats"
        if self._margin is not None:
            told += (
                f", or the final validation loss lies more than {self._margin:g} nats above the lowest at a lower "
                "learning rate, everything else equal"
            )
        return f"Diverged: {told}."

    @property
    def _margin(self) -> float | None:
        given: float | None = self.study.rule["val_margin"]
        return self.margin if given is None and self.study.rule["val_above"] is None else given

    def _verdicts(self, margin: float | None) -> Mapping[str, bool]:
        """Whether each cell that ended is stable, at a margin."""
        if margin not in self._judged:
            judged = verdicts(replace(self.study, rule=self.study.rule | {"val_margin": margin}))
            self._judged[margin] = {name: verdict.stable for name, verdict in judged.items()}
        return self._judged[margin]

    @cached_property
    def _judged(self) -> dict[float | None, dict[str, bool]]:
        """Verdicts at the margins that were asked for so far."""
        return {}

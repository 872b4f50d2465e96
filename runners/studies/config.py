"""Every key of a study file, with its unit, its default and its bounds."""

from typing import Any, Self

from pydantic import Field, model_validator

from blockgraph.schema import Fields
from runners.config import Diverged

VERDICT = ("val_above", "val_margin")  # keys of the rule that judge a cell when it is over, and no running one


class Rule(Diverged):
    """What a study counts as diverged: what ends a run early, and what is said of one that came to its end.

    The keys of `train.diverged` end a cell; those below judge the last validation loss of a finished one.
    """

    val_above: float | None = Field(None, allow_inf_nan=False, description="bound of the last validation loss, in nats")
    val_margin: float | None = Field(
        None, ge=0, allow_inf_nan=False,
        description="nats it may lie above the lowest of the cells that differ in nothing but a lower learning rate",
    )  # fmt: skip


class MaxLr(Fields):
    """Where `--max-lr` looks for the highest stable learning rate, and how closely."""

    low: float = Field(gt=0, allow_inf_nan=False, description="lower bound, tried first")
    high: float = Field(gt=0, allow_inf_nan=False, description="upper bound, tried next")
    factor: float = Field(
        1.25,
        gt=1,
        allow_inf_nan=False,
        description="ratio of lowest diverged to highest stable rate to stop at",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low, {self.low:g}, must be less than high, {self.high:g}")
        return self


class Slurm(Fields):
    """What a cell asks of a Slurm cluster; left out, the cluster's own default holds."""

    partition: str | None = Field(None, description="where the jobs queue")
    account: str | None = Field(None, description="on whose account")
    qos: str | None = Field(None, description="quality of service")
    gpus: int = Field(1, ge=0, description="devices of a cell, all on one machine; more than one: torchrun")
    cpus: int = Field(8, gt=0, description="cores of a cell")
    memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False, description="memory of a cell")
    minutes: int = Field(60, gt=0, description="time limit of a cell")
    at_once: int = Field(256, gt=0, description="cells that run at the same time")
    device: str = Field("h100", description="kind of device, for the times of --dry-run; as in `blockgraph plan`")
    setup: list[str] = Field([], description="lines of shell before a cell, such as `module load cuda`")


class StudyConfig(Fields):
    """A whole study. Each cell is the run of `base`, with `run` and then its own point of a grid laid over it."""

    study: str = Field(
        "study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="its name; left out: the file's"
    )
    base: str | None = Field(None, description="a run file that all cells share")
    run: dict[str, Any] = Field({}, description="keys of a run that all cells share")
    grid: dict[str, Any] = Field({}, description="axes that are crossed: values of a key, or named points of several")
    grids: list[dict[str, Any]] = Field([], description="further grids, each crossed by itself")
    cells: list[dict[str, Any]] = Field([], description="further cells, one by one")
    exclude: list[dict[str, Any]] = Field([], description="cells to leave out: those with all values of an entry")
    diverged: Rule = Field(Rule(), description="the rule that says what diverged")
    max_lr: MaxLr | None = Field(None, description="bounds of `--max-lr`")
    slurm: Slurm | None = Field(None, description="what a cell asks of a cluster; null: the defaults")

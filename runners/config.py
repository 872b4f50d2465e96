"""Every key of a run file, with its unit, its default and its bounds."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from blockgraph.recompute import EVERYTHING, NOTHING
from blockgraph.schema import Fields
from runners.corpus import DataConfig
from runners.tokenizer import TokenizerConfig

RECOMPUTED: dict[str, tuple[str, ...]] = {"none": NOTHING, "block": EVERYTHING}


class Spike(Fields):
    """When a finite loss or gradient norm counts as a spike: far above the median of the last 128 accepted ones."""

    z: float = Field(8.0, gt=0, allow_inf_nan=False, description="robust standard deviations above the median")
    in_a_row: int = Field(0, ge=0, description="spikes in a row that end the run; 0: they are only counted")


class Diverged(Fields):
    """When a finite loss counts as diverged: its smoothed value stays above a bound for a number of steps.

    The bound is `loss_above`, or else the loss of the first step plus `margin`. A loss or a gradient norm that is
    not finite always ends a run, before the step is taken.
    """

    loss_above: float | None = Field(None, allow_inf_nan=False, description="bound, in nats; null: first loss + margin")
    margin: float = Field(1.0, ge=0, allow_inf_nan=False, description="nats above the loss of the first step")
    window: int = Field(50, ge=0, description="steps in a row above the bound that end the run; 0 turns the rule off")
    spike: Spike = Field(Spike(), description="what counts as a spike, and whether spikes end a run")


class Rollback(Fields):
    """How `on_fault: rollback` goes back and which batches it passes over (PaLM, arXiv 2204.02311, section 5.1)."""

    steps: int = Field(100, gt=0, description="steps to go back at least, where a kept checkpoint is that old")
    before: int = Field(100, ge=0, description="batches passed over before the one at fault, of those trained on again")
    after: int = Field(100, ge=0, description="batches passed over after the one at fault")
    most: int = Field(3, ge=0, description="times a run goes back; the fault after that ends it")


class Train(Fields):
    """How long, how much at once, and in which arithmetic."""

    steps: int = Field(300, gt=0, description="optimiser steps")
    batch: int = Field(16, gt=0, description="sequences in a step")
    micro_batch: int | None = Field(
        None, gt=0, description="sequences a process takes at once, divides batch; null: batch"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights and of the order of the data")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the compute; master weights and loss are fp32")
    compile: Literal["auto", True, False] = Field(
        "auto", description="torch.compile blocks and loss; auto: where that pays"
    )
    loss: Literal["auto", "plain", "chunked"] = Field(
        "auto", description="logits made whole, or in parts and again in the backward pass; auto: by their size"
    )
    lowering: Literal["auto", "explicit", "sdpa", "blockwise", "flex"] = Field(
        "auto",
        description="of the attention core; auto: by length, precision and device. In bf16 it changes the errors",
    )
    shard: int | None = Field(None, gt=0, description="processes that share one copy of the state; null: all of them")
    checkpointing: Literal["none", "block"] | list[str] = Field(
        "none",
        description="activations computed again in the backward pass: none, all inside each block, or those inside "
        "the nodes and groups of a list, such as [attn, ff.act]",
    )
    timeout_s: float = Field(
        600.0,
        ge=5,
        allow_inf_nan=False,
        description="seconds without a sign of a process, or for which the others wait, that end the run; "
        "more than one process takes alone, as to verify a checkpoint; compiling does not count",
    )
    diverged: Diverged = Field(Diverged(), description="when a run counts as diverged and ends")
    on_fault: Literal["stop", "skip", "rollback"] = Field(
        "stop", description="at what is not finite: end; or, at a spike too, skip the update or go back and pass over"
    )
    skips: int = Field(
        3, ge=0, description="updates in a row that `skip` leaves out; the fault after that ends the run"
    )
    rollback: Rollback = Field(Rollback(), description="how `rollback` goes back")

    @field_validator("micro_batch")
    @classmethod
    def _divides(cls, micro_batch: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("batch")
        if micro_batch and batch and batch % micro_batch:
            raise ValueError(f"{micro_batch} does not divide batch, {batch}")
        return micro_batch

    @property
    def micro(self) -> int:
        """Sequences in a forward pass."""
        return self.micro_batch or self.batch

    @property
    def checkpoints(self) -> str:
        """How it is chosen what is computed again: none, block or selected."""
        return self.checkpointing if isinstance(self.checkpointing, str) else "selected"

    @property
    def recompute(self) -> tuple[str, ...]:
        """Nodes and groups of the blocks that are computed again."""
        return RECOMPUTED[self.checkpointing] if isinstance(self.checkpointing, str) else tuple(self.checkpointing)


class Optim(Fields):
    """The optimiser and what is added to its loss."""

    name: Literal["adamw", "stable_adamw", "muon"] = Field(
        "adamw",
        description="stable_adamw: clips each tensor's update, which takes the place of clip; "
        "muon: for the matrices inside the blocks, those of experts too, with adamw for the rest",
    )
    lr: float = Field(3e-3, gt=0, allow_inf_nan=False, description="peak learning rate, times the node's multiplier")
    betas: list[float] = Field([0.9, 0.95], description="decay rates of the two moments, each in [0, 1)")
    momentum: float = Field(0.95, ge=0, lt=1, description="decay rate of muon's one moment; the others have none")
    eps: float = Field(1e-8, gt=0, allow_inf_nan=False, description="added to the root of the second moment")
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False, description="of the weights whose node asks for it")
    decay: Literal["coupled", "independent"] = Field(
        "coupled", description="coupled: times the learning rate of the step; independent: times its share of the peak"
    )
    clip: float | None = Field(1.0, ge=0, allow_inf_nan=False, description="largest global gradient norm; 0: no limit")
    z_loss: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight of mean(logsumexp(logits)^2)")

    @field_validator("betas")
    @classmethod
    def _two_rates(cls, betas: list[float]) -> list[float]:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"two numbers, each at least 0 and less than 1, are expected, found {betas}")
        return betas


class Schedule(Fields):
    """The course of the learning rate: a linear warm-up, then a decay."""

    warmup: int | None = Field(None, ge=0, description="steps of linear warm-up; null: none, or see warmup_samples")
    warmup_samples: int | None = Field(None, ge=0, description="sequences of warm-up, in place of warmup")
    decay: Literal["cosine", "constant", "wsd"] = Field("cosine", description="wsd: constant, then linear to final")
    final: float = Field(0.1, ge=0, le=1, description="of the peak that is left at the last step; constant: unused")
    cooldown: int | None = Field(None, gt=0, description="steps of decay in wsd; null: a fifth of the run")

    @field_validator("warmup_samples")
    @classmethod
    def _instead(cls, warmup_samples: int | None, info: ValidationInfo) -> int | None:
        if warmup_samples is not None and info.data.get("warmup") is not None:
            raise ValueError("warmup already gives the warm-up in steps; give one of the two")
        return warmup_samples

    def warmup_steps(self, batch: int) -> int:
        """Steps of warm-up; samples fill whole steps of `batch` sequences."""
        return -(-self.warmup_samples // batch) if self.warmup_samples else self.warmup or 0

    def cooldown_steps(self, steps: int) -> int:
        """Steps of the last, falling part of `wsd` in a run of `steps`; none in the other two."""
        return (self.cooldown or max(1, steps // 5)) if self.decay == "wsd" else 0


class Log(Fields):
    """How often something is written down."""

    every: int = Field(10, gt=0, description="steps between two rows of metrics.jsonl")
    probe: int = Field(50, gt=0, description="steps between two rows of the probes")
    probes: list[str] = Field(
        ["norms", "attention", "outputs"],
        description="groups and names of series (docs/probes.md), * is a part of a word, ** any words; []: none",
    )
    evaluate: int = Field(100, gt=0, description="steps between two validations; the last step always has one")
    evaluate_tokens: int = Field(65_536, gt=0, description="held-out tokens of a validation, the same every time")
    sinks: list[Literal["tensorboard", "wandb"]] = Field([], description="where the rows go too, by optional packages")


class Checkpoint(Fields):
    """How often the whole state is saved, how, and how many states are kept."""

    every: int = Field(100, gt=0, description="steps between two checkpoints; the last step always has one")
    keep: int = Field(2, ge=2, description="newest checkpoints kept; two, so that a damaged one loses little")
    background: Literal["auto", True, False] = Field(
        "auto",
        alias="async",
        description="write while the training goes on, from a copy of the state; auto: where that copy takes at most "
        "a quarter of the machine's memory",
    )


def _setting(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("the value of a slot or a dim is a word, an expression or a whole number")
    return value


Setting = Annotated[Any, AfterValidator(_setting)]


class RunConfig(Fields):
    """A whole run. `model`, a bare name or a path, is loaded with the slots and dims of `set`."""

    run: str = Field("run", description="name of the run and of its directory under runs/; left out: the file's name")
    model: str = Field("gpt", description="a shipped spec's name, or the path of one")
    set: dict[str, Setting] = Field({}, description="slots and dims of the model; vocab: the tokenizer's, unless set")
    data: DataConfig = Field(DataConfig(), description="texts to train on")
    tokenizer: TokenizerConfig = Field(TokenizerConfig(), description="text to numbers")
    train: Train = Field(Train(), description="length, batch, seed, precision")
    optim: Optim = Field(Optim(), description="optimiser, weight decay, clipping, z-loss")
    schedule: Schedule = Field(Schedule(), description="course of the learning rate")
    log: Log = Field(Log(), description="intervals of what is written down")
    checkpoint: Checkpoint = Field(Checkpoint(), description="intervals of what is saved")

    @field_validator("run")
    @classmethod
    def _file_name(cls, run: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", run):
            raise ValueError(f"a name is at most 80 letters, digits, dots, dashes and underscores, found '{run}'")
        return run

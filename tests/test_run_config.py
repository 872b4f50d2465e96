"""Run files: what they may say, and what is told when they say something else."""

from pathlib import Path

import pytest

from blockgraph.errors import SpecError
from blockgraph.ops import OPS
from runners import drift, runfile
from runners.config import RunConfig
from runners.schedule import factor
from runners.spec import graph_of, series_of

DEMO = Path(__file__).parents[1] / "specs" / "runs" / "demo.yaml"


def load(tmp_path, text, *overrides):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return runfile.load(path, overrides)


def complaints(tmp_path, text, *overrides):
    with pytest.raises(SpecError) as error:
        load(tmp_path, text, *overrides)
    return [problem.line.removeprefix(f"{tmp_path}/") for problem in error.value.problems]


def config(**sections):
    return RunConfig.model_validate(sections)


def test_the_demo_says_its_defaults_and_no_others():
    run = runfile.load(DEMO).config
    settings = {"block": "qk_norm", "n_layers": 4, "d_model": 128, "n_heads": 4}
    changed = {
        key
        for key, *_ in drift.changes(
            RunConfig(run="demo", set=settings).model_dump(by_alias=True), run.model_dump(by_alias=True)
        )
    }
    assert changed == {"train.micro_batch", "schedule.warmup"}


def test_every_key_is_documented():
    def missing(kind, trail=()):
        for name, field in kind.model_fields.items():
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                yield from missing(inner, (*trail, name))
            if not field.description or field.is_required():
                yield ".".join((*trail, name))

    assert list(missing(RunConfig)) == []


def test_a_file_without_a_name_is_called_by_its_file(tmp_path):
    assert load(tmp_path, "model: gpt\n").config.run == "r"


def test_overrides_follow_the_rules_of_the_file(tmp_path):
    run = load(
        tmp_path, "optim: {lr: 1}\n", "optim.lr=6e-3", "set.block=no", "train.steps=0x10", "optim.clip=", "run=on"
    )
    assert (run.config.optim.lr, run.config.optim.clip) == (0.006, None)
    assert (run.config.set, run.config.train.steps, run.config.run) == ({"block": "no"}, 16, "on")


def test_resolved_runs_load_to_themselves(tmp_path):
    run = load(tmp_path, "run: x\nset: {block: 'a/b.yaml', n: 3}\noptim: {lr: 1e-5, z_loss: 1e-4}\n").config
    assert load(tmp_path, runfile.to_yaml(run.model_dump(by_alias=True))).config == run


BAD_FILES = {
    "run: a/b": (
        "r.yaml:1:6: error: run: a name is at most 80 letters, digits, dots, dashes and underscores, found 'a/b'"
    ),
    "modle: gpt": "r.yaml:1:1: error: unknown key 'modle'; did you mean 'model'?",
    "model: 3": "r.yaml:1:8: error: model must be a word, found '3'; in quotes it is one: '3'",
    "set: [block]": "r.yaml:1:6: error: set must be a mapping, found a list",
    "set: {n_layers: 2.5}": (
        "r.yaml:1:17: error: set.n_layers: the value of a slot or a dim is a word, an expression or a whole number"
    ),
    "data: {seq: 0}": "r.yaml:1:13: error: data.seq must be greater than 0, found 0",
    "data: {sequence: 8}": "r.yaml:1:8: error: unknown key 'sequence'; did you mean 'seq'?",
    "train: 300": "r.yaml:1:8: error: train must be a mapping, found '300'",
    "train: {steps: many}": "r.yaml:1:16: error: train.steps must be a whole number, found 'many'",
    "train: {steps: 1.5}": "r.yaml:1:16: error: train.steps must be a whole number, found '1.5'",
    "train: {batch: true}": "r.yaml:1:16: error: train.batch must be a whole number, found 'true'",
    "train: {batch: 6, micro_batch: 4}": "r.yaml:1:32: error: train.micro_batch: 4 does not divide batch, 6",
    "train: {precision: bf61}": "r.yaml:1:20: error: train.precision: 'bf61' is not known; did you mean 'bf16'?",
    "train: {seed: -1}": "r.yaml:1:15: error: train.seed must be at least 0, found -1",
    "train: {diverged: {loss: 3}}": ("r.yaml:1:20: error: unknown key 'loss'; did you mean 'loss_above'?"),
    "optim: {lr: .nan}": "r.yaml:1:13: error: optim.lr must be a finite number, found '.nan'",
    "optim: {lr: fast}": "r.yaml:1:13: error: optim.lr must be a number, found 'fast'",
    "optim: {name: adam}": "r.yaml:1:15: error: optim.name: 'adam' is not known; did you mean 'adamw'?",
    "optim: {betas: [0.9]}": (
        "r.yaml:1:16: error: optim.betas: two numbers, each at least 0 and less than 1, are expected, found [0.9]"
    ),
    "optim: {decay: decoupled}": "r.yaml:1:16: error: optim.decay: 'decoupled' is not known; did you mean 'coupled'?",
    "schedule: {warmup: 9}\ntrain: {steps: 9}": (
        "r.yaml:1:20: error: schedule.warmup: the warm-up takes 9 steps of 9; it must be shorter than the run"
    ),
    "schedule: {warmup: 9, warmup_samples: 16}": (
        "r.yaml:1:39: error: schedule.warmup_samples: warmup already gives the warm-up in steps; give one of the two"
    ),
    "schedule: {cooldown: 9}": ("r.yaml:1:22: error: schedule.cooldown belongs to decay: wsd, but decay is cosine"),
    "schedule: {final: 2}": "r.yaml:1:19: error: schedule.final must be at most 1.0, found 2",
    "checkpoint: {keep: 1}": "r.yaml:1:20: error: checkpoint.keep must be at least 2, found 1",
    "log: {every: 0}": "r.yaml:1:14: error: log.every must be greater than 0, found 0",
}


@pytest.mark.parametrize(("text", "told"), BAD_FILES.items())
def test_bad_files_are_told_at_line_and_column(tmp_path, text, told):
    assert complaints(tmp_path, text) == [told]


BAD_OVERRIDES = {
    "optim.lr=-1": "optim.lr must be greater than 0.0, found -1",
    "optim.lrr=1": "unknown key 'lrr'; did you mean 'lr'?",
    "optim.lr=[": "optim.lr=[: not YAML: expected a value",
    "run.x=1": "'run.x' cannot be set, because run is 'r'",
    "train.compile=maybe": "train.compile: 'maybe' is not known; known are auto, true, false",
    "steps=3": "unknown key 'steps'; did you mean 'train.steps'?",
    "decay=wsd": "unknown key 'decay'; did you mean 'optim.decay' or 'schedule.decay'?",
    "data.train=[]": "data.train needs at least 1 items",
}


@pytest.mark.parametrize(("override", "told"), BAD_OVERRIDES.items())
def test_bad_overrides_are_told_at_the_command_line(tmp_path, override, told):
    assert complaints(tmp_path, "run: r\n", override) == [f"<command line>: error: {told}"]


def test_all_faults_of_a_file_are_told_at_once(tmp_path):
    told = complaints(tmp_path, "train: {steps: 0, batch: x}\noptim: {lr: -1}\nfoo: 1\n")
    assert [line.split(": ")[0] for line in told] == ["r.yaml:1:16", "r.yaml:1:26", "r.yaml:2:13", "r.yaml:3:1"]


def test_warm_up_grows_by_equal_amounts_and_cosine_ends_at_final():
    run = config(train={"steps": 12}, schedule={"warmup": 4, "final": 0.2})
    expected = [0.25, 0.5, 0.75, 1.0]
    assert [factor(run, step) for step in (1, 2, 3, 4)] == pytest.approx(expected)
    # 8 steps of cosine follow: halfway the mean of 1 and 0.2, a quarter (1 + cos(pi/4)) / 2 of the way down.
    assert [factor(run, step) for step in (6, 8, 12)] == pytest.approx([0.8828427, 0.6, 0.2])


def test_samples_of_warm_up_fill_whole_steps():
    run = config(train={"steps": 100, "batch": 16}, schedule={"warmup_samples": 33})
    assert [factor(run, step) for step in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_wsd_is_constant_and_then_falls_on_a_line():
    run = config(train={"steps": 20}, schedule={"warmup": 2, "decay": "wsd", "cooldown": 5, "final": 0.0})
    assert [factor(run, step) for step in (1, 2, 15, 16, 18, 20)] == pytest.approx([0.5, 1, 1, 0.8, 0.4, 0])


def test_constant_stays_at_the_peak():
    run = config(train={"steps": 9}, schedule={"decay": "constant"})
    assert {factor(run, step) for step in range(1, 10)} == {1.0}


@pytest.mark.parametrize("decay", ["cosine", "wsd", "constant"])
def test_no_schedule_leaves_the_range_between_final_and_peak(decay):
    run = config(train={"steps": 50}, schedule={"warmup": 10, "decay": decay, "final": 0.3})
    factors = [factor(run, step) for step in range(11, 51)]
    assert factors == sorted(factors, reverse=True)
    assert 0.3 - 1e-12 <= min(factors) <= max(factors) <= 1.0


def drifted(tmp_path, before, after, *overrides):
    old = load(tmp_path, before).config
    with pytest.raises(SpecError) as error:
        drift.refuse(load(tmp_path, after, *overrides), old, Path("runs/r"))
    return [problem.line.removeprefix(f"{tmp_path}/") for problem in error.value.problems]


def test_a_changed_key_is_refused_where_it_is_written(tmp_path):
    hint = "put it back, or name another directory with --out"
    assert drifted(tmp_path, "optim: {lr: 1e-3}\n", "train: {batch: 8}\noptim: {lr: 2e-3}\n") == [
        f"r.yaml:1:16: error: train.batch is 8, but runs/r was started with 16; {hint}",
        f"r.yaml:2:13: error: optim.lr is 0.002, but runs/r was started with 0.001; {hint}",
    ]


def test_a_slot_that_is_gone_is_refused(tmp_path):
    told = drifted(tmp_path, "set: {block: qk_norm}\n", "set: {}\n")
    assert told[0].startswith('r.yaml:1:6: error: set.block is not set, but runs/r was started with "qk_norm";')


def test_more_steps_are_refused_unless_the_schedule_is_constant(tmp_path):
    hint = "more steps need `schedule.decay: constant`, for any other decay changes every learning rate"
    told = drifted(tmp_path, "train: {steps: 10}\n", "train: {steps: 10}\n", "train.steps=20")
    assert told == [f"<command line>: error: train.steps is 20, but runs/r was started with 10; {hint}"]
    constant = "schedule: {decay: constant}\n"
    old = load(tmp_path, f"train: {{steps: 10}}\n{constant}").config
    drift.refuse(load(tmp_path, f"train: {{steps: 20}}\n{constant}"), old, Path("runs/r"))
    assert drifted(tmp_path, f"train: {{steps: 10}}\n{constant}", f"train: {{steps: 5}}\n{constant}")


def test_intervals_may_change(tmp_path):
    old = load(tmp_path, "run: r\n").config
    drift.refuse(load(tmp_path, "run: r\nlog: {every: 1}\ncheckpoint: {every: 7, keep: 5}\n"), old, Path("runs/r"))


def test_a_probe_that_stands_for_nothing_is_told_at_its_place(tmp_path):
    text = "log:\n  probes: [attention, layers.*.attn.qvk.x.l2]\nset: {n_layers: 2}\n"
    run = load(tmp_path, text)
    with pytest.raises(SpecError) as error:
        series_of(run, graph_of(run, OPS))
    message = "no series is called 'layers.*.attn.qvk.x.l2'; did you mean 'layers.*.attn.qkv.x.l2'?"
    assert str(error.value) == (
        f"{tmp_path}/r.yaml:2:23: error: {message}\n"
        "  2 |   probes: [attention, layers.*.attn.qvk.x.l2]\n"
        "    |                       ^^^^^^^^^^^^^^^^^^^^^^"
    )


def test_a_run_records_what_it_does_by_default_whatever_its_model(tmp_path):
    run = load(tmp_path, "set: {n_layers: 2}\n")
    names = series_of(run, graph_of(run, OPS))
    assert {"layers.1.attn.qkv.y.l2", "layers.0.attn.bmm1.max", "logits.log_z", "layers.1.x.rms"} <= set(names)
    assert series_of(load(tmp_path, "log: {probes: []}\n"), graph_of(run, OPS)) == []


@pytest.mark.parametrize("model", ["t5", "vit"])
def test_a_run_refuses_what_is_not_tokens_to_logits(tmp_path, model):
    run = load(tmp_path, f"model: {model}\nset: {{size: tiny}}\n")
    with pytest.raises(SpecError) as error:
        graph_of(run, OPS)
    (problem,) = error.value.problems
    assert problem.message.startswith(f"'{model}' maps ")
    assert "a run trains models of tokens [batch, seq] to logits [batch, seq, vocab]" in problem.message
    assert problem.hint == f'blockgraph.compile("{model}") gives a module to train in Python'
    assert problem.place.line == 1


def test_a_file_whose_name_cannot_name_a_run_is_told_so(tmp_path):
    path = tmp_path / "_mine.yaml"
    path.write_text("train: {steps: 3}\n")
    with pytest.raises(SpecError, match="a name is at most 80 letters, digits, dots, dashes and underscores"):
        runfile.load(path)

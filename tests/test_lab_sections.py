"""Sections that ask for an order, a cause, two instabilities and warnings: on studies whose answers are known."""

import json
import math
from pathlib import Path

import pytest
from made_studies import STEPS, Loss, Settings, make, noise

from blockgraph.library import shipped_folder
from blockgraph.ops import OPS
from runners import study
from runners.lab.alarms import ALARMS, reference, smooth, turn
from runners.lab.critical import Crossing, crossing, ratio
from runners.lab.lab import Lab
from runners.lab.section import Section
from runners.lab.sections import cause, knobs, norms, order, two, warnings
from runners.lab.trials import trials

RATES, SEEDS = [0.01, 0.1], [0, 1, 2]
HOLD = str(shipped_folder() / "ablations/hold_qkv.yaml")
NORMS = str(shipped_folder() / "ablations/all_norm.yaml")


def lab_of(folder: Path) -> Lab:
    found = study.read(folder)
    return Lab(found, trials(found, OPS), 0.5)


def rows(section: Section, place: int = 0) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in section.tables[place].rows}


# Critical rates


def test_a_crossing_is_read_on_the_line_between_two_losses():
    assert crossing({1e-2: 3.0, 1.0: 4.0}, 0.5).rate == pytest.approx(0.1)
    assert crossing({1e-2: 3.0, 1.0: math.inf}, 0.5).rate == pytest.approx(0.1)
    assert crossing({1e-3: 3.5, 1e-2: 3.0, 1e-1: 3.2, 1.0: 3.8}, 0.5) == Crossing(pytest.approx(10**-0.5))


def test_a_crossing_outside_of_the_grid_is_a_bound():
    assert crossing({1e-2: 3.0, 1e-1: 3.4}, 0.5) == Crossing(0.1, "≥ ")
    assert crossing({1e-2: math.inf, 1e-1: math.inf}, 0.5) == Crossing(0.01, "≤ ")
    assert not ratio({0: Crossing(1.0, "≥ "), 1: Crossing(1.1)}, {0: Crossing(0.1), 1: Crossing(0.11)}).lower
    assert ratio({0: Crossing(1.0, "≥ "), 1: Crossing(1.0)}, {0: Crossing(0.1), 1: Crossing(0.1)}).higher
    assert not ratio({0: Crossing(1.0), 1: Crossing(1.0)}, {0: Crossing(0.1, "≥ "), 1: Crossing(0.1)}).higher


def test_a_low_rate_that_only_learns_slowly_crosses_nothing():
    assert crossing({1e-3: 6.0, 1e-2: 3.0, 1e-1: 3.1}, 0.5).sign == "≥ "


# The paper's order


def rising(edges: dict[str, float]) -> Loss:
    """Final losses that rise by two nats a decade from an edge of each block on."""
    return lambda s: 3 + max(0.0, 2 * math.log10(s["optim.lr"] / edges[s["block"]])) + noise(s, 0.001)


@pytest.mark.parametrize(("edges", "word", "share"), [
    (order.PAPER, "holds", 1.0), ({block: 2.4e-4 / rate for block, rate in order.PAPER.items()}, "fails", 0.0),
])  # fmt: skip
def test_claims_hold_where_losses_follow_the_paper_and_fail_where_they_turn_it_around(tmp_path, edges, word, share):
    axes = {"block": list(order.PAPER), "optim.lr": [3e-3, 1e-2, 3e-2, 1e-1, 3e-1], "train.seed": SEEDS}
    lab = lab_of(make(tmp_path / "made", axes, rising(edges)))
    found = order.section(lab)
    assert {cell.rpartition(": ")[2] for row in found.tables[1].rows for cell in row[2:]} == {word}
    assert len(found.tables[1].rows) == len(order.CLAIMS)
    together, pairs = order.agreement({block: order.crossings(lab, block, lab.sizes[0], 0.5) for block in lab.arms})
    assert together == share * pairs


def test_claims_about_blocks_without_a_seed_in_common_wait(tmp_path):
    axes = {"block": ["baseline", "soft_temp"], "optim.lr": RATES, "train.seed": [0, 1]}
    missing = {("baseline", 1), ("soft_temp", 0)}
    folder = make(
        tmp_path / "made", axes, rising(order.PAPER), missing=lambda s: (s["block"], s["train.seed"]) in missing
    )
    assert rows(order.section(lab_of(folder)), 1) == {"soft_temp over baseline": ("1.33", "·", "·", "·")}


# Cause or symptom


def growing(settings: Settings, step: int) -> dict[str, float]:
    """Norms that grow with the rate, but for the block that holds."""
    grown = 1 + step * settings["optim.lr"] * (settings["block"] == "baseline")
    names = ("attn.qkv", "attn.proj", "ff.fc1", "ff.fc2")
    found = {f"layers.{layer}.{name}.y.l2": grown for layer in (0, 1) for name in names}
    return found | {f"layers.{layer}.attn.bmm1.max": 100 * grown for layer in (0, 1)}


@pytest.mark.parametrize(("helps", "word"), [(True, "a cause"), (False, "a symptom")])
def test_growth_is_a_cause_where_holding_it_cures_and_a_symptom_where_it_does_not(tmp_path, helps, word):
    def loss(settings: Settings) -> float:
        lost = settings["optim.lr"] == 0.1 and not (helps and settings["block"] == HOLD)
        return 3 + 2 * lost + noise(settings)

    axes = {"block": ["baseline", HOLD, NORMS], "optim.lr": RATES, "train.seed": SEEDS}
    found = cause.section(lab_of(make(tmp_path / "made", axes, loss, probes=growing)))
    assert found.text[1].startswith(f"hold_qkv, beside baseline: {word}. Critical rate ")
    assert rows(found)["hold_qkv"][0] == "attn.qkv"
    assert rows(found)["all_norm"][0] == "all"
    assert "hold_qkv: 0.01 gives " in found.figures[0].about
    grew = rows(found, 1)
    assert grew["baseline"][1] == f"{(1 + STEPS * 0.1) / (1 + STEPS * 0.01):.3g}"
    assert grew["hold_qkv"][1] == f"{1 / (1 + STEPS * 0.01):.3g}"


# Norms


def test_norms_of_which_no_linear_has_all_stand_in_the_table_alone(tmp_path):
    def probes(settings: Settings, step: int) -> dict[str, float]:
        names = ("attn.qkv.y.l2", "attn.qkv.x.l2", "ff.fc1.y.l2", "ff.fc1.weight.l2", "ff.fc1.dx.l2")
        return {f"layers.0.{name}": settings["optim.lr"] for name in names}

    axes = {"block": ["baseline"], "optim.lr": RATES, "train.seed": [0]}
    found = norms.section(
        lab_of(make(tmp_path / "made", axes, lambda s: 3 + 2 * (s["optim.lr"] > 0.01), probes=probes))
    )
    assert rows(found)["layers.0.attn.qkv"] == ("·", "10*", "10*", "·", "·")
    assert [figure.name for figure in found.figures] == ["gradients"]


# Two instabilities


@pytest.mark.parametrize(("both", "beyond"), [(-1.5, "+0.000"), (-0.5, "+1.000"), (-2.0, "-0.500")])
def test_what_two_cures_do_together_is_told_beside_their_sum(tmp_path, both, beyond):
    gains = {(False, False): 0.0, (True, False): -1.0, (False, True): -0.5, (True, True): both}

    def loss(settings: Settings) -> float:
        cures = settings["block"] == "qk_norm", settings["optim.z_loss"] > 0
        return 4.5 + 0.1 * settings["train.seed"] + gains[cures]

    axes = {"block": ["baseline", "qk_norm"], "optim.z_loss": [0.0, 1e-4], "optim.lr": RATES, "train.seed": SEEDS}
    found = two.section(lab_of(make(tmp_path / "made", axes, loss)))
    means = [cell.partition(" ")[0] for cell in found.tables[0].rows[0][3:8]]
    assert means == ["4.600", "-1.000", "-0.500", f"{both:+.3f}", beyond]
    assert len(found.tables[0].rows) == len(RATES)


def test_runs_that_diverged_before_a_loss_was_logged_are_left_out(tmp_path):
    axes = {"block": ["baseline", "qk_norm"], "optim.z_loss": [0.0, 1e-4], "optim.lr": RATES, "train.seed": SEEDS}
    folder = make(tmp_path / "made", axes, lambda s: math.inf if s["block"] == "baseline" else 3.0)
    for log in folder.glob("cells/baseline-*/metrics.jsonl"):
        log.unlink()
    lab = lab_of(folder)
    assert {arm: len(lab.capped(arm, lab.sizes[0], RATES[0])) for arm in lab.arms} == {
        "baseline, z_loss 0": 0, "baseline, z_loss 0.0001": 0, "qk_norm, z_loss 0": 3, "qk_norm, z_loss 0.0001": 3,
    }  # fmt: skip
    assert not two.section(lab).tables[0].rows


# Knobs


def test_lines_of_a_setting_hold_the_others_and_only_the_runs_that_have_it(tmp_path):
    axes = {"optim.clip": [None, 1.0], "optim.z_loss": [0.0, 1e-4], "optim.lr": RATES}
    folder = make(tmp_path / "made", axes, lambda s: 3.0)
    cells = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    for cell in cells[-2:]:  # as cells of another grid, without that axis
        del cell["settings"]["optim.z_loss"]
    (folder / "cells.jsonl").write_text("".join(f"{json.dumps(cell)}\n" for cell in cells))
    lines = knobs.lines_of(lab_of(folder), "optim.z_loss")
    assert {name: [value for value, *_ in points] for name, points in lines.items()} == {"clip None": [0.0, 1e-4]}


# Warnings


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A baseline that turns half-way at 0.1, whose logits pass 1000 at step 20, and at 0.01 once, for nothing."""

    def probes(settings: Settings, step: int) -> dict[str, float]:
        warns = settings["optim.lr"] == 0.1 or settings["train.seed"] == 0
        return {"layers.0.attn.bmm1.max": 2000.0 if warns and step >= 20 else 2.0}

    def loss(settings: Settings) -> float:
        return 4.9 if settings["optim.lr"] == 0.1 else 3.0

    axes = {"block": ["baseline"], "optim.lr": RATES, "train.seed": SEEDS}
    return lab_of(make(tmp_path / "made", axes, loss, probes=probes))


def test_a_loss_turns_where_it_stays_above_the_best_run_at_a_lower_rate(lab):
    lost = lab.of(lr=0.1)[0]
    other = reference(lab, lost)
    assert other is not None
    assert (other.lr, other.seed) == (0.01, lost.seed)
    gaps = {step: loss - smooth(other)[step] for step, loss in smooth(lost).items()}
    step = turn(lab, lost)
    assert step is not None
    assert all((gap > 0.25) == (at >= step) for at, gap in gaps.items())
    assert turn(lab, other) is None


def test_warnings_are_told_with_their_leads_and_with_those_for_nothing(lab):
    turned = turn(lab, lab.of(lr=0.1)[0])
    assert turned is not None
    found = rows(warnings.section(lab))[ALARMS[0].words]
    lead = turned - 20
    assert found[0].startswith("3 of 3 ")
    assert found[1].startswith(f"{3 * (lead > 0)} of 3 ")
    assert found[2] == f"{lead} [{lead}, {lead}]"
    assert found[3].startswith("1 of 3 ")


def test_a_warning_relative_to_the_warm_up_begins_behind_it(lab):
    relative = next(alarm for alarm in ALARMS if alarm.relative and "gradient" in alarm.words)
    seen = relative.course(lab.of()[0])
    assert seen is not None
    assert seen.steps[0] == 10
    assert seen.values.max() == pytest.approx(0.1)


def test_a_layer_whose_logits_are_no_numbers_leaves_those_of_the_others(tmp_path):
    def probes(settings: Settings, step: int) -> dict[str, float]:
        lost = math.nan if step == STEPS else 5.0
        return {"layers.0.attn.bmm1.max": lost, "layers.1.attn.bmm1.max": 2000.0 if step >= 20 else 2.0}

    made = make(tmp_path / "made", {"block": ["baseline"], "optim.lr": RATES}, lambda s: 3.0, probes=probes)
    assert ALARMS[0].first(lab_of(made).of()[0]) == 20


@pytest.mark.parametrize("count", [0, 3, 10])
def test_an_interval_of_a_share_holds_it_and_stays_within_0_and_1(count):
    low, high = warnings.share(count, 10)
    assert 0 <= low <= count / 10 <= high <= 1
    assert high - low > 0.2

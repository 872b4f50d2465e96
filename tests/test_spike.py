"""The three questions about a loss that went wrong, asked of made-up traces: not finite, a spike, diverged."""

import math
import random

import pytest
from traces import CLEAR, KINDS, judged, trace

from runners.config import Train
from runners.spike import LEAST, WINDOW, Spikes, Window
from runners.trainer import Step
from runners.watch import Watch

Z = Train().diverged.spike.z


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(20))
def test_clear_traces_are_judged_as_they_were_made(kind, seed):
    assert judged(trace(kind, seed)) == CLEAR[kind]


def clean(seed, steps):
    """Losses that fall and gradient norms that vary by a fifth, as a healthy run has them."""
    draw = random.Random(seed)
    for step in range(steps):
        yield 3 + 3 * math.exp(-step / 300) + draw.gauss(0, 0.05), 0.5 * math.exp(draw.gauss(0, 0.2))


@pytest.mark.parametrize("seed", range(3))
def test_5000_clean_steps_raise_no_alarm(seed):
    spikes = Spikes(Z)
    assert [step for step, values in enumerate(clean(seed, 5000)) if spikes.take(*values)] == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1, 63, 64, 200])
@pytest.mark.parametrize("which", ["loss", "norm"])
def test_what_is_not_finite_does_not_hide_later_spikes(at, which, value):
    spikes, seen = Spikes(Z), []
    for step, (loss, norm) in enumerate(clean(0, 500)):
        if step == at:
            loss, norm = (value, norm) if which == "loss" else (loss, value)
        elif step - at in (10, 50, 120) and step >= LEAST:
            loss, norm = loss * 2, norm * 10
        if spikes.take(loss, norm):
            seen.append(step)
    assert seen == [at + later for later in (10, 50, 120) if at + later >= LEAST]
    assert spikes.count == len(seen)


@pytest.mark.parametrize("at", [0, 1, 63, 64, 200])
def test_no_step_that_is_not_finite_is_accepted(at):
    watch = Watch(Train())
    for number, (loss, norm) in enumerate(clean(1, 300)):
        step = Step(number + 1, loss, 0.0, math.nan if number == at else norm)
        assert watch.accepts(step) == (number != at)
        if number == at:
            assert watch.fault(step).rule == "non_finite"
        else:
            assert watch.verdict(step) is None


def test_a_spike_does_not_enter_the_window():
    window = Window(0.01)
    for value in (1.0, 2.0) * LEAST:
        window.take(value, accepted=True)
    before = window.state()
    window.take(9.0, accepted=False)
    window.take(math.nan, accepted=False)
    assert window.state() == before | {"rejected": 1}


def test_the_score_is_the_distance_from_the_median_in_robust_deviations():
    window = Window(0.0)
    for value in range(1, 22):
        window.take(float(value), accepted=True)
    # The median of 1..21 is 11, the median distance from it 5, and 1.4826 * 5 is 7.413.
    assert window.score(11 + 2 * 7.413) == pytest.approx(2)


def test_a_flat_window_is_not_infinitely_sensitive():
    window = Window(0.01)
    for _ in range(WINDOW):
        window.take(3.0, accepted=True)
    assert window.score(3.001) < 0.1
    assert window.score(6.0) > 50


def test_a_level_that_lasts_is_no_spike_for_ever():
    spikes = Spikes(Z)
    for loss in [3.0] * WINDOW + [6.0] * 4 * WINDOW:
        spikes.take(loss, 1.0)
    assert spikes.count == WINDOW
    assert spikes.in_a_row == 0


def test_a_restored_watch_judges_as_the_one_that_never_stopped():
    values = list(clean(2, 400))
    values[150], values[300] = (9.0, 0.5), (3.0, 50.0)
    straight, first, second = (Watch(Train()) for _ in range(3))
    verdicts = [straight.verdict(Step(n, loss, 0.0, norm)) for n, (loss, norm) in enumerate(values)]
    begun = [first.verdict(Step(n, loss, 0.0, norm)) for n, (loss, norm) in enumerate(values[:200])]
    second.restore(first.state())
    rest = [second.verdict(Step(n, loss, 0.0, norm)) for n, (loss, norm) in enumerate(values[200:])]
    assert begun + rest == verdicts
    assert second.state() == straight.state()
    assert second.counts == {"spikes": 2, "skipped": 0}

"""The store of the probes: what is written is read, and nothing that happens to a run repeats or loses a row."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockgraph.errors import SpecError
from blockgraph.patterns import matching
from runners import series
from runners.recorder import Recorder
from runners.series import PROBES, Column


def columns(*names):
    return [Column(name, "1", f"what {name} means") for name in names]


def recorder(run, names=("a.l2", "b.l2"), step=0):
    return Recorder(run / PROBES, columns(*names), step)


def fill(run, steps, names=("a.l2", "b.l2"), step=0):
    open_ = recorder(run, names, step)
    for number in steps:
        open_.append(number, {name: number + place / 10 for place, name in enumerate(names)})
    open_.close()


def told(run):
    """Steps, and the values of each name; NaN as None."""
    found = series.load(run)
    values = {name: [None if np.isnan(x) else round(float(x), 3) for x in found[name]] for name in found.names}
    return found.steps.tolist(), values


def test_what_is_written_is_read(tmp_path):
    fill(tmp_path, [1, 50, 100])
    assert told(tmp_path) == ([1, 50, 100], {"a.l2": [1.0, 50.0, 100.0], "b.l2": [1.1, 50.1, 100.1]})
    found = series.load(tmp_path)
    assert found.about("a.l2") == Column("a.l2", "1", "what a.l2 means")
    assert (found.values.dtype, found.values.shape) == (np.float32, (3, 2))
    assert "a.l2" in found
    assert "c.l2" not in found


def test_a_run_that_has_written_no_row_has_empty_series(tmp_path):
    fill(tmp_path, [])
    assert told(tmp_path) == ([], {"a.l2": [], "b.l2": []})
    assert series.load(tmp_path).values.shape == (0, 2)


def test_an_unknown_name_is_told_with_the_near_miss(tmp_path):
    fill(tmp_path, [1])
    with pytest.raises(KeyError, match=r"'a\.l3' was not recorded did you mean 'a\.l2'\?"):
        series.load(tmp_path)["a.l3"]


def test_a_run_without_probes_is_told(tmp_path):
    with pytest.raises(SpecError, match=r"probes: error: there are no probes here; `log.probes` of a run file"):
        series.load(tmp_path)


def test_the_part_of_a_row_that_a_kill_leaves_is_dropped(tmp_path):
    fill(tmp_path, [1, 2, 3])
    (file,) = (tmp_path / PROBES).glob("*.bin")
    whole = file.stat().st_size
    for size in range(whole, whole - 17, -1):
        os.truncate(file, size)
        assert told(tmp_path)[0] == ([1, 2, 3] if size == whole else [1, 2] if size > whole - 17 else [1])
    fill(tmp_path, [3], step=2)
    assert told(tmp_path)[0] == [1, 2, 3]


@settings(deadline=None)
@given(st.data())
def test_however_often_a_run_goes_back_each_step_has_one_row(tmp_path_factory, data):
    run = tmp_path_factory.mktemp("run")
    last = 0
    for _ in range(data.draw(st.integers(1, 4))):
        back, ahead = data.draw(st.integers(0, last)), data.draw(st.integers(0, 6))
        fill(run, range(back + 1, back + ahead + 1), step=back)
        last = back + ahead
    steps, values = told(run)
    assert steps == list(range(1, last + 1))
    assert values["a.l2"] == [float(step) for step in steps]


def test_a_rollback_takes_the_rows_after_it_back(tmp_path):
    open_ = recorder(tmp_path)
    for step in (10, 20, 30):
        open_.append(step, {"a.l2": step})
    open_.rewind(15)
    open_.append(20, {"a.l2": 0.5})
    open_.close()
    assert told(tmp_path) == ([10, 20], {"a.l2": [10.0, 0.5], "b.l2": [None, None]})


def test_other_columns_from_a_step_on_leave_the_rows_before_as_they_were(tmp_path):
    fill(tmp_path, [1, 2], names=("a.l2", "b.l2"))
    fill(tmp_path, [2, 3], names=("b.l2", "c.l2"), step=1)
    assert told(tmp_path) == (
        [1, 2, 3],
        {"a.l2": [1.0, None, None], "b.l2": [1.1, 2.0, 3.0], "c.l2": [None, 2.1, 3.1]},
    )
    fill(tmp_path, [4], names=("a.l2",), step=3)
    assert told(tmp_path)[1]["a.l2"] == [1.0, None, None, 4.0]
    assert len(list((tmp_path / PROBES).iterdir())) == 2


def test_values_that_are_not_finite_are_kept_as_they_are(tmp_path):
    open_ = recorder(tmp_path)
    open_.append(1, {"a.l2": float("inf"), "b.l2": float("nan")})
    open_.close()
    assert series.load(tmp_path)["a.l2"][0] == np.inf
    assert np.isnan(series.load(tmp_path)["b.l2"][0])


def test_a_row_is_read_while_the_run_goes_on(tmp_path):
    open_ = recorder(tmp_path)
    open_.append(1, {"a.l2": 1.0})
    assert told(tmp_path)[0] == [1]
    open_.append(2, {"a.l2": 2.0})
    assert told(tmp_path)[0] == [1, 2]
    open_.close()


NAMES = ["layers.0.attn.qkv.x.l2", "layers.1.x.rms", "head.x.l2", "logits.mean"]


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("layers.*.attn.qkv.x.l2", [0]), ("layers.0.attn.qkv.x.l2", [0]), ("**.l2", [0, 2]), ("*.x.l2", [2]),
        ("layers.*.x.rms", [1]), ("**", [0, 1, 2, 3]), ("layers.**", [0, 1]), ("**.x.*", [0, 1, 2]), ("*", []),
        ("**.q*v.x.l2", [0]), ("logits.m?an", []), ("logits.", []), ("", []), ("logits.mea", []), ("logits.+", []),
    ],
)  # fmt: skip
def test_a_star_is_within_a_word_and_two_are_any_number_of_words(pattern, places):
    assert matching(pattern, NAMES) == [NAMES[place] for place in places]


def test_series_are_read_without_torch(tmp_path):
    import subprocess
    import sys

    fill(tmp_path, [1])
    script = f"import sys; from runners.series import load; load({str(tmp_path)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

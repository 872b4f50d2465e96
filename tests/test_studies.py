"""Study files: the cells they stand for, and every mistake told at its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockgraph.errors import SpecError
from blockgraph.library import shipped_folder
from blockgraph.ops import OPS
from blockgraph.syntax import parse
from runners import runfile
from runners.studies import file, stability
from runners.studies.axes import crossed, settings
from runners.studies.config import MaxLr
from runners.studies.search import next_rate
from runners.study import Cell, Study

RUN = "run: {set: {n_layers: 2, d_model: 32, n_heads: 2}, tokenizer: {vocab: 512}}\n"


def load(tmp_path, text, name="study.yaml"):
    (tmp_path / name).write_text(text)
    return file.load(tmp_path / name, OPS)


def names(tmp_path, text):
    return [cell.name for cell in load(tmp_path, RUN + text).cells]


def fault(tmp_path, text):
    """What is told of a study, without its folder, its snippets and its notes."""
    with pytest.raises(SpecError) as told:
        _ = load(tmp_path, RUN + text).cells
    return [problem.line.removeprefix(f"{tmp_path}/") for problem in told.value.problems]


def test_a_grid_is_crossed_with_its_last_axis_fastest(tmp_path):
    assert names(tmp_path, "grid: {block: [baseline, qk_norm], optim.lr: [1e-3, 3], seed: [0, 7]}") == [
        "baseline-lr0.001-seed0", "baseline-lr0.001-seed7", "baseline-lr3-seed0", "baseline-lr3-seed7",
        "qk_norm-lr0.001-seed0", "qk_norm-lr0.001-seed7", "qk_norm-lr3-seed0", "qk_norm-lr3-seed7",
    ]  # fmt: skip


def test_a_cell_is_the_shared_run_with_its_own_keys(tmp_path):
    study = load(tmp_path, RUN + "grid: {block: [qk_norm], optim.lr: [3e-2], seed: [7], schedule.decay: [wsd]}")
    [cell] = study.cells
    config = cell.run.config
    assert (config.set["block"], config.set["d_model"], config.optim.lr) == ("qk_norm", 32, 0.03)
    assert (config.train.seed, config.schedule.decay, config.run) == (7, "wsd", cell.name)
    assert cell.settings == {"block": "qk_norm", "optim.lr": 0.03, "train.seed": 7, "schedule.decay": "wsd"}


def test_named_points_set_several_keys_at_once(tmp_path):
    points = "grid: {size: {small: {d_model: 32, optim.lr: 1e-2}, large: {d_model: 64, optim: {lr: 1e-3}}}, seed: [0]}"
    study = load(tmp_path, RUN + points)
    small, large = study.cells
    assert [small.name, large.name] == ["small-seed0", "large-seed0"]
    assert (small.run.config.set["d_model"], small.run.config.optim.lr) == (32, 0.01)
    assert (large.run.config.set["d_model"], large.run.config.optim.lr) == (64, 0.001)
    assert large.run.config.set["n_layers"] == 2
    assert large.settings == {"size": "large", "train.seed": 0}
    assert study.joint["size"]["small"] == {"d_model": 32, "optim.lr": 0.01}


def test_several_grids_and_single_cells_are_one_study_without_doubles(tmp_path):
    text = """grid: {size: {s: {d_model: 32}, m: {d_model: 64}}}
grids: [{block: [qk_norm], optim.lr: [1, 2]}, {block: [qk_norm], optim.lr: [2, 3]}]
cells: [{size: m, block: soft_cap}, {block: qk_norm, optim.lr: 1}]
"""
    assert names(tmp_path, text) == ["s", "m", "qk_norm-lr1", "qk_norm-lr2", "qk_norm-lr3", "m-soft_cap"]


def test_excluded_are_the_cells_with_all_values_of_an_entry(tmp_path):
    text = """grid: {block: [baseline, qk_norm], optim.lr: [1, 2, 3]}
exclude: [{block: baseline, optim.lr: [2, 3]}]
"""
    assert names(tmp_path, text) == ["baseline-lr1", "qk_norm-lr1", "qk_norm-lr2", "qk_norm-lr3"]


def test_a_study_without_a_grid_is_one_run(tmp_path):
    assert names(tmp_path, "") == ["run"]


def test_names_are_files_and_stay_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    qk_norm = (shipped_folder() / "blocks/qk_norm.yaml").read_text()
    for folder in "ab":
        (tmp_path / folder / "mine.yaml").write_text(qk_norm)
    first, second, third = names(tmp_path, "grid: {block: [./a/mine.yaml, ./b/mine.yaml], optim.betas: [[0.9, 0.95]]}\n"
                                 "cells: [{log.sinks: []}]")  # fmt: skip
    assert first == "mine-betas_0.9_0.95"
    assert second.startswith("mine-betas_0.9_0.95-")
    assert len(second) == len(first) + 9
    assert third == "sinks"


def test_paths_start_from_the_file_that_writes_them(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/base.yaml").write_text("data: {train: [{path: words.txt}]}\ntokenizer: {path: ../t.model}\n")
    block = (shipped_folder() / "blocks/qk_norm.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(block)
    text = "base: runs/base.yaml\nrun: {tokenizer: {path: null, vocab: 300}}\ngrid: {block: [./mine.yaml]}\n"
    [cell] = load(tmp_path, text).cells
    assert cell.run.config.data.train[0].path == str(tmp_path / "runs/words.txt")
    assert cell.run.config.set["block"] == str(tmp_path / "mine.yaml")
    assert cell.settings == {"block": "./mine.yaml"}


def test_the_file_of_a_cell_says_the_same_as_the_study(tmp_path):
    study = load(tmp_path, RUN + "grid: {block: [baseline, qk_norm], seed: [0, 1]}\ndiverged: {margin: 2.5}")
    for cell in study.cells:
        (tmp_path / "cell.yaml").write_text(cell.text)
        assert runfile.load(tmp_path / "cell.yaml").config == cell.run.config
        assert cell.run.config.train.diverged.margin == 2.5


FAULTS = {
    "grid: {blok: [qk_norm]}": [
        "2:15: error: blok: no dim is called 'qk_norm'; write a number",
        "2:15: error: no dim or slot is called 'blok'; did you mean 'block'?",
    ],
    "grid: {block: [qk_nrom]}": ["2:16: error: no spec is called 'qk_nrom'; did you mean 'qk_norm'?"],
    "grid: {optim.lrr: [1]}": ["2:8: error: unknown key 'lrr'; did you mean 'lr'?"],
    "grid: {optm.lr: [1]}": ["2:8: error: unknown key 'optm'; did you mean 'optim'?"],
    "grid: {optim.lr: [1, -1, x]}": [
        "2:22: error: optim.lr must be greater than 0.0, found -1",
        "2:26: error: optim.lr must be a number, found 'x'",
    ],
    "grid: {optim.lr: 1}": ["2:18: error: optim.lr: a list of values, or named points, is expected, found '1'"],
    "grid: {optim.lr: []}": ["2:18: error: optim.lr: a list of values, or named points, is expected, found a list"],
    "grid: {optim.lr: [1, 1.0]}": ["2:22: error: optim.lr has 1.0 twice"],
    "grid: {run: [a]}": ["2:8: error: 'run' is no axis: the study names its cells"],
    "grid: {size: {s: 3}}": ["2:18: error: the point 's' of size is a mapping of keys, found '3'"],
    "grid: {size: {a b: {d_model: 64}}}": [
        "2:15: error: 'a b' cannot name a point: letters, digits, dots, dashes and underscores can"
    ],
    "grid: {train.steps: [5, 50]}\nrun2: 1": [
        "3:1: error: unknown key 'run2'; did you mean 'run'?"
    ],
    "grid: {schedule.warmup: [1, 400]}": [
        "2:29: error: schedule.warmup: the warm-up takes 400 steps of 300; it must be shorter than the run"
    ],
    "grid: {seed: [0]}\nexclude: [{sed: 0}]": ["3:12: error: no axis is called 'sed'; known are train.seed"],
    "grid: {seed: [0, 1]}\nexclude: [{seed: 2}]": ["3:18: error: no cell has '2' on seed; known are 0, 1"],
    "grid: {seed: [0, 1]}\nexclude: [{seed: [0, 1]}]": ["3:1: error: every cell is excluded"],
    "base: nowhere.yaml": ["2:7: error: there is no run file 'nowhere.yaml'"],
    "diverged: {margn: 1}": ["2:12: error: unknown key 'margn'; did you mean 'margin'?"],
    "max_lr: {low: 1, high: 0.1}": ["2:9: error: max_lr: low, 1, must be less than high, 0.1"],
    "max_lr: {low: 1e-3, high: 1, factor: 1}": ["2:38: error: max_lr.factor must be greater than 1.0, found 1"],
    "slurm: {gpu: 8}": ["2:9: error: unknown key 'gpu'; did you mean 'gpus'?"],
}  # fmt: skip


@pytest.mark.parametrize("text", FAULTS)
def test_a_mistake_is_told_where_it_is(tmp_path, text):
    assert fault(tmp_path, text) == [f"study.yaml:{line}" for line in FAULTS[text]]


def test_sizes_that_do_not_fit_are_told_with_the_cell_that_has_them(tmp_path):
    with pytest.raises(SpecError, match=r"n_heads is 10\.6667 .*(?s:.*)found in n_heads3$"):
        _ = load(tmp_path, RUN + "grid: {n_heads: [2, 3]}").cells


def test_a_mistake_of_many_cells_is_told_once_with_the_cells(tmp_path):
    with pytest.raises(SpecError) as told:
        _ = load(tmp_path, RUN + "grid: {block: [qk_norm, qk_nrom], seed: [0, 1, 2]}").cells
    assert len(told.value.problems) == 1
    assert str(told.value).endswith("found in qk_nrom-seed0")


@pytest.mark.parametrize("path", sorted((shipped_folder() / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_is_checked_whole(path):
    study = file.load(path, OPS)
    assert study.config.study == path.stem
    assert len(study.cells) == len({cell.name for cell in study.cells}) > 1


def test_the_proxy_of_table_3_has_ten_blocks_six_rates_and_three_seeds():
    study = file.load(shipped_folder() / "studies/table3-proxy.yaml", OPS)
    assert {axis: len(labels) for axis, labels in study.axes.items()} == {
        "block": 10, "optim.lr": 6, "train.seed": 3,
    }  # fmt: skip
    assert len(study.cells) == 180


# What is stable


def cell(lr, loss, seed=0, **settings):
    """A cell that finished with a loss, or diverged where it is None."""
    state = "diverged" if loss is None else "finished"
    facts = {"reason": "told"} if loss is None else {"val_loss": loss}
    return Cell(f"{settings}{lr}{seed}", settings | {"optim.lr": lr, "train.seed": seed}, None, state, facts)


def study_of(*cells, **rule):
    rule = {"val_above": None, "val_margin": None} | rule
    return Study("s", None, {}, {}, rule, {}, list(cells))


def edge_of(*cells, **rule):
    [edge] = stability.edges(study_of(*cells, **rule))
    return edge.stable, edge.diverged, edge.beyond


def test_a_rule_for_the_last_loss_judges_what_came_to_its_end():
    cells = cell(1e-3, 3.0), cell(1e-2, 2.0), cell(1e-1, 2.4), cell(1, None)
    assert edge_of(*cells) == (1e-1, 1, ())
    assert edge_of(*cells, val_margin=0.3) == (1e-2, 1e-1, ())
    assert edge_of(*cells, val_margin=0.5) == (1e-1, 1, ())
    assert edge_of(*cells, val_above=2.5) == (None, 1e-3, (1e-2, 1e-1))


def test_a_low_learning_rate_that_only_learns_slowly_is_stable():
    assert edge_of(cell(1e-4, 5.0), cell(1e-3, 3.0), cell(1e-2, 2.0), val_margin=0.1) == (1e-2, None, ())


def test_a_cell_that_has_not_ended_is_not_judged():
    running = Cell("r", {"optim.lr": 1e-1, "train.seed": 0}, None, "running", {})
    assert stability.verdicts(study_of(cell(1e-2, 2.0), running)).keys() == {cell(1e-2, 2.0).name}


def test_seeds_and_blocks_are_compared_with_their_own():
    cells = cell(1, 2.0, block="a"), cell(2, 2.1, block="a"), cell(1, 1.0, block="b"), cell(2, 1.1, seed=1, block="b")
    assert all(verdict.stable for verdict in stability.verdicts(study_of(*cells, val_margin=0.2)).values())


def test_a_range_is_over_seeds_and_its_middle_is_geometric():
    cells = [cell(lr, None if lr > edge else 2.0, seed) for seed, edge in enumerate((1, 4)) for lr in (1, 4, 16)]
    [found] = stability.ranges(study_of(*cells))
    assert (found.settings, found.stable, found.middle) == ({}, [1, 4], pytest.approx(2))


# The search


def searched(stable, bounds, known=()):
    """Outcomes of a search whose probes are judged by `stable`."""
    outcomes = dict(known)
    while rate := next_rate(stability.edge({}, outcomes), bounds):
        assert rate not in outcomes, "a probe is never repeated"
        outcomes[rate] = stable(rate)
    return outcomes


BOUNDS = st.tuples(st.floats(1e-5, 1e-1), st.floats(1.5, 1e4), st.floats(1.05, 8)).map(
    lambda found: MaxLr(low=found[0], high=found[0] * found[1], factor=found[2])
)


@given(BOUNDS, st.floats(1e-6, 1e4))
def test_the_search_closes_in_on_the_edge(bounds, limit):
    outcomes = searched(lambda rate: rate <= limit, bounds)
    edge = stability.edge({}, outcomes)
    assert all(bounds.low <= rate <= bounds.high for rate in outcomes)
    if limit < bounds.low:
        assert (edge.stable, edge.diverged, len(outcomes)) == (None, bounds.low, 1)
    elif limit >= bounds.high:
        assert (edge.stable, edge.diverged, len(outcomes)) == (bounds.high, None, 2)
    else:
        assert edge.stable <= limit < edge.diverged
        assert edge.diverged / edge.stable <= max(bounds.factor, 1.001)
        assert len(outcomes) <= 2 + 30


@given(BOUNDS, st.floats(1e-6, 1e4), st.integers(0, 20))
def test_a_search_goes_on_from_any_part_of_itself(bounds, limit, kept):
    whole = searched(lambda rate: rate <= limit, bounds)
    assert searched(lambda rate: rate <= limit, bounds, list(whole.items())[:kept]) == whole


@given(BOUNDS, st.lists(st.booleans(), min_size=40, max_size=40))
def test_a_search_ends_whatever_the_outcomes_are(bounds, outcomes):
    answers = iter(outcomes)
    found = searched(lambda rate: next(answers), bounds)
    assert next_rate(stability.edge({}, found), bounds) is None


def test_outcomes_that_are_not_monotone_are_kept_and_told():
    edge = stability.edge({}, {1: True, 2: False, 4: True, 8: False})
    assert (edge.stable, edge.diverged, edge.beyond) == (1, 2, (4,))


def test_points_of_a_grid_know_their_settings():
    from blockgraph.errors import Problems
    from runners.studies.axes import axes

    grid = parse("{block: [a, b], seed: [0]}")
    found = [settings(points) for points in crossed(axes(grid, Problems()))]
    assert json.dumps(found) == '[{"block": "a", "train.seed": 0}, {"block": "b", "train.seed": 0}]'

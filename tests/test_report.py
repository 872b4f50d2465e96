"""The report of a study: true numbers, whole files, figures that can be read."""

import base64
import hashlib
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_studies import INITIAL, N_OF, STEPS, Settings, make, noise
from matplotlib.figure import Figure as Sheet

from runners import report as module
from runners.lab import plots
from runners.lab.sections import blockmap, norms, table3
from runners.lab.writers import latex, markdown
from runners.report import command

RATES, SEEDS = [0.01, 0.03, 0.1], [0, 1]
SIZES = {"small": (2, 16), "middle": (2, 32), "large": (4, 32), "largest": (4, 64)}
POINTS = {"size": {n: {"set.n_layers": d, "set.d_model": w, "set.n_heads": 2} for n, (d, w) in SIZES.items()}}
AXES = {"block": ["baseline", "qk_norm"], "size": list(SIZES), "optim.lr": RATES, "train.seed": SEEDS}
LAW = 0.5  # the made-up logits grow with the root of N
VOID = {"meta", "input", "br"}


def logit(settings: Settings) -> float:
    """100 at the smallest size and rate, ten times as much at three times the rate."""
    if settings["block"] == "qk_norm":
        return 8.0
    return 100 * (N_OF[settings["size"]] / N_OF["small"]) ** LAW * (settings["optim.lr"] / RATES[0]) ** 2.1


def loss(settings: Settings) -> float:
    if logit(settings) > 1e4:
        return math.inf
    lift = 1.0 if logit(settings) > 6e3 else 0.0
    return 3.0 + lift - 0.2 * math.log10(N_OF[settings["size"]]) + noise(settings)


def probes(settings: Settings, step: int) -> dict[str, float]:
    grown = max(1.0, logit(settings) ** min(1.0, step / STEPS * 2))
    found = {"layers.0.attn.bmm1.max": grown, "layers.0.attn.softmax.entropy": 3 / grown**0.1}
    found |= {"logits.mean": -step * settings["optim.lr"], "logits.log_z": 3.0}
    found |= {"layers.0.ff.fc1.dweight.rms": 1e-5 / settings["optim.lr"], "layers.0.ff.fc1.weight.update_rms": 0.3}
    for layer in (0, 1):
        for place, linear in enumerate(("attn.qkv", "attn.proj", "ff.fc1", "ff.fc2")):
            for quantity in ("weight.l2", "x.l2", "y.l2", "dx.l2", "dy.l2"):
                found[f"layers.{layer}.{linear}.{quantity}"] = (place + 1) * grown**0.3 * (layer + 1)
    return found


@pytest.fixture(scope="module")
def sheets() -> list[Sheet]:
    return []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sheets: list[Sheet]) -> Path:
    """A study of four sizes with probes, and its report, whose figures are kept as they were laid out."""
    study = make(tmp_path_factory.mktemp("studies") / "grown", AXES, loss, points=POINTS, probes=probes, base={})
    pdf = plots._pdf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_pdf", lambda sheet: sheets.append(sheet) or pdf(sheet))
        assert command([str(study)]) == 0
    return study


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one size without probes: baseline diverges from 0.03 on, soft_cap at 0.1, qk_norm nowhere."""
    tops = {"baseline": 0.01, "soft_cap": 0.03, "qk_norm": 0.1}

    def final(settings: Settings) -> float:
        fine = settings["optim.lr"] <= tops[settings["block"]]
        return 2.0 + 0.1 * settings["train.seed"] + noise(settings) if fine else math.inf

    axes = {"block": list(tops), "optim.lr": RATES, "train.seed": [0, 1, 2]}
    study = make(tmp_path_factory.mktemp("studies") / "plain", axes, final, missing=lambda s: False)
    assert command([str(study)]) == 0
    return study


def text(study: Path) -> str:
    return (study / "report/report.md").read_text().replace("\\", "")


def rows(found: str, heading: str) -> dict[str, list[str]]:
    """The first table below a text, by its first column."""
    lines = found[found.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return {row[0]: row[1:] for row in table}


def test_table_3_tells_which_block_converged_where(plain):
    found = rows(text(plain), "Converged or diverged")
    assert found["learning rate"] == ["0.01", "0.03", "0.1"]
    assert found["baseline"] == ["✓", "✗", "✗"]
    assert found["soft_cap"] == ["✓", "✓", "✗"]
    assert found["qk_norm"] == ["✓", "✓", "✓"]


def test_ceilings_outside_of_the_grid_are_bounds_and_ratios_follow(plain):
    found = rows(text(plain), "Highest stable learning rate, 6.24k")
    assert found["baseline"] == ["0.01", "0.01 to 0.03", "≤ 0.1", "3"]
    assert found["soft_cap"] == ["0.03", "0.03 to 0.1", "≤ 0.3", "3"]
    assert found["qk_norm"] == ["≥ 0.1", "0.1 to above the grid", "about 1", "3"]


def test_the_rule_stands_in_the_table(plain):
    caption = next(line for line in text(plain).splitlines() if line.startswith("Converged or diverged"))
    assert "stayed above its first + 1 nats for 50 steps" in caption
    assert "more than 0.5 nats above the lowest at a lower learning rate, everything else equal" in caption


def test_perplexity_is_paired_by_seed_at_the_common_rate(plain):
    found = rows(text(plain), "Validation perplexity, at the common learning rate 0.01")
    mean, low, high = map(float, re.findall(r"[\d.]+", found["baseline"][1]))
    assert low < mean < high
    assert abs(math.log(mean) - 2.1) < 0.02
    difference = [float(x) for x in re.findall(r"[-+][\d.]+", found["baseline"][3])]
    assert len(difference) == 3
    assert max(map(abs, difference)) < 0.08 < (math.log(high) - math.log(low)) / 2  # the seeds' own spread is gone


def test_the_forecast_is_the_law_that_made_the_logits(made):
    found = rows(text(made), "baseline: largest logit foretold from the 3 smallest sizes")
    lr, n, power, _, measured, outcome = next([k, *v] for k, v in found.items() if k == "0.03")
    expected = logit({"block": "baseline", "size": "largest", "optim.lr": 0.03})
    assert (lr, n, outcome) == ("0.03", "197k", "0 of 2 diverged")
    assert power.endswith("holds")
    assert float(power.split(" ")[0]) == pytest.approx(expected, rel=0.01)
    assert float(measured) == pytest.approx(expected, rel=0.01)
    crossing = rows(text(made), "baseline: what fails next")["0.03"][2]
    assert float(crossing.rstrip("k")) * 1e3 == pytest.approx(N_OF["small"] * (1e4 / 100 / 3**2.1) ** 2, rel=0.05)


def test_norms_of_every_layer_are_compared_at_the_last_step_of_both(made):
    found = rows(text(made), "L2 norm in the diverging run over that in the converging one")
    ratios = {float(cell.rstrip("*")) for cells in list(found.values())[2:] for cell in cells}
    assert len(found) == 2 + 8
    assert len(ratios) == 1
    assert ratios.pop() > 1


def test_the_norms_of_any_layer_are_drawn(tmp_path):
    axes = AXES | {"block": ["baseline"], "size": ["small"]}
    study = make(tmp_path / "layers", axes, loss, points=POINTS, probes=probes, base={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runners.lab.report.SECTIONS", (norms.section, blockmap.section))
        for layer, shown in (("0", 0), ("1", 1), ("7", 0)):
            assert command([str(study), "--layer", layer]) == 0
            assert f"L2 norms of W, X and Y of every linear: baseline, seed 0, layer {shown}." in text(study)
            assert f"*baseline, layer {shown}, LR " in text(study)


@pytest.mark.parametrize(
    ("left_out", "told"), [("dy.l2", "L2 norms of dX of every"), ("weight.l2", "L2 norms of X and Y")]
)
def test_a_norm_that_was_not_recorded_leaves_the_others(tmp_path, left_out, told):
    def fewer(settings: Settings, step: int) -> dict[str, float]:
        return {name: value for name, value in probes(settings, step).items() if not name.endswith(left_out)}

    axes = AXES | {"block": ["baseline"], "size": ["small"]}
    study = make(tmp_path / "few", axes, loss, points=POINTS, probes=fewer, base={})
    assert command([str(study)]) == 0
    assert told in text(study)


def test_every_question_is_answered_or_told(plain, made):
    titles = {name: re.findall("^## (.*)$", text(study), re.M) for name, study in zip("pm", (plain, made), strict=True)}
    told = re.findall(r"^- (.*): it takes", text(plain), re.MULTILINE)
    assert set(titles["m"]) <= {*titles["p"], *told}
    assert "Largest attention logit against size, and a forecast (Wortsman, Figure 9)" in told
    assert len(titles["p"][1:-1]) + len(told) == len(module_sections())


def module_sections() -> tuple[Any, ...]:
    from runners.lab.report import SECTIONS

    return SECTIONS


@pytest.mark.parametrize("name", ["plain", "made"])
def test_the_page_is_well_formed_and_loads_nothing(name, request):
    study = request.getfixturevalue(name)
    page = (study / "report/index.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loads == []
    assert not [url for url in re.findall(r"https?://[^\"\s<]*", page) if not url.startswith("http://www.w3.org/")]
    assert [name for name, count in Counter(checker.ids).items() if count > 1] == []
    assert checker.unnamed == 0
    assert page.count("<svg") == page.count('role="img"') > 3


class Checker(HTMLParser):
    """Elements that are not closed, ids, what would be loaded, and drawings without a text alternative."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.unnamed = 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.loads += [
            given[key] or "" for key in ("src", "href", "xlink:href") if not given.get(key, "#").startswith("#")
        ]
        self.unnamed += tag == "svg" and len(given.get("aria-label") or "") < 20
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag


def test_only_the_pages_own_script_may_run(made):
    page = (made / "report/index.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in page


def test_the_slider_has_a_number_and_a_colour_for_every_node_and_step(made):
    page = (made / "report/index.html").read_text()
    slider = page[page.index("<div data-slider>") : page.index("</script></div>")]
    data = json.loads(slider[slider.index('json">') + 6 :])
    nodes = re.findall(r'data-node="([^"]*)"', slider)
    assert sorted(nodes) == sorted(re.findall(r'data-value="([^"]*)"', slider))
    assert Counter(nodes) == Counter(node for panel in data["panels"] for node in panel)
    assert {len(steps) for panel in data["panels"] for steps in panel.values()} == {len(data["steps"])}
    assert data["steps"] == [1, *range(10, STEPS + 1, 10)]


@pytest.mark.parametrize("name", ["plain", "made"])
def test_markdown_and_latex_find_their_figures_and_their_tables_are_rectangular(name, request):
    out = request.getfixturevalue(name) / "report"
    found, set_ = (out / "report.md").read_text(), (out / "report.tex").read_text()
    svgs, pdfs = re.findall(r"\]\((figures/[^)]*)\)", found), re.findall(r"includegraphics\[.*?\]\{(.*?)\}", set_)
    assert len(svgs) == len(pdfs) > 3
    assert all((out / path).is_file() for path in (*svgs, *pdfs))
    assert {path.name for path in (out / "figures").iterdir()} == {Path(path).name for path in (*svgs, *pdfs)}
    for block in re.findall(r"(?:^\|.*\n)+", found, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


@pytest.mark.parametrize("name", ["plain", "made"])
def test_latex_is_balanced_and_has_only_letters_that_it_can_set(name, request):
    found = (request.getfixturevalue(name) / "report/report.tex").read_text()
    stack: list[str] = []
    for kind, environment in re.findall(r"\\(begin|end)\{(\w+)\}", found):
        stack = [*stack, environment] if kind == "begin" else stack[: -1 if stack[-1] == environment else 0]
    assert stack == []
    bare = re.sub(r"\\[\\{}%&#_$]", "", found)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert [char for char in set(found) if ord(char) > 255] == []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", found, re.DOTALL):
        wide = len(re.findall(r"[lr]|p\{", columns.replace("linewidth", "")))
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body.splitlines() if line.endswith(r"\\")} == {wide}


def test_what_has_a_meaning_in_markdown_or_latex_is_escaped():
    assert markdown.escaped("a_b|c*\n<d>") == r"a\_b\|c\* \<d\>"
    assert latex.escaped("50% of $x_1 & \\y {z} ✓ ≥ 漢") == (
        r"50\% of \$x\_1 \& \textbackslash{}y \{z\} $\checkmark$ $\geq$ ?"
    )


def test_every_axis_is_labelled_with_its_unit_and_no_labels_overlap(made, sheets):
    assert len(sheets) > 8
    for sheet in sheets:
        renderer = sheet.canvas.get_renderer() if hasattr(sheet.canvas, "get_renderer") else sheet._get_renderer()
        for axes in (axes for axes in sheet.axes if axes.get_visible()):
            for axis in (axes.xaxis, axes.yaxis):
                words = axis.get_label_text()
                assert words in ("step", "block") or re.search(r"\([^()]+\)$", words), words
                texts = [t for t in axis.get_ticklabels() if t.get_text() and t.get_visible()]
                boxes = [t.get_window_extent(renderer) for t in texts]
                inside = [b for b in boxes if axes.bbox.expanded(1.5, 1.5).overlaps(b)]
                for place, box in enumerate(inside):
                    assert not [other for other in inside[place + 1 :] if box.overlaps(other)], words
        for legend in sheet.legends:
            around = legend.get_window_extent(renderer)
            assert not [axes for axes in sheet.axes if axes.get_visible() and axes.bbox.overlaps(around)]
            assert around.x1 <= sheet.bbox.x1 + 1
            assert around.y0 >= sheet.bbox.y0 - 1


def test_the_same_study_gives_the_same_bytes(plain, tmp_path):
    assert command([str(plain), "-o", str(tmp_path / "again")]) == 0
    names = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file())
    assert len(names) > 6
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (plain / "report" / name).read_bytes(), name


@pytest.mark.usefixtures("brief")
def test_a_study_that_is_not_over_says_what_is_missing_and_how_to_go_on(tmp_path):
    axes = {"block": ["baseline", "qk_norm"], "optim.lr": RATES, "train.seed": [0]}
    study = make(tmp_path / "half", axes, lambda s: 2.0, missing=lambda s: s["optim.lr"] == 0.03)
    assert command([str(study)]) == 0
    found = text(study)
    assert "6 cells: 4 finished, 2 missing." in found
    assert "2 cells have no result yet, and nothing below counts them" in found
    assert "`blockgraph sweep`" in found
    assert rows(found, "Converged or diverged")["baseline"] == ["✓", "·", "✓"]


def test_a_study_that_has_not_begun_has_a_report_too(tmp_path):
    axes = {"block": ["baseline"], "optim.lr": RATES}
    study = make(tmp_path / "empty", axes, lambda s: 2.0, missing=lambda s: True)
    assert command([str(study)]) == 0
    assert "3 cells: 3 missing." in text(study)


@pytest.mark.usefixtures("brief")
def test_a_failed_cell_is_named_with_its_reason(tmp_path):
    study = make(tmp_path / "bad", {"block": ["baseline"], "optim.lr": RATES}, lambda s: 2.0)
    (study / "cells/baseline-0.1/status.json").write_text('{"state": "failed", "step": 3, "reason": "OSError: gone"}')
    assert command([str(study)]) == 0
    assert "| baseline-0.1 | failed | OSError: gone |" in text(study)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of one section, for what does not depend on which."""
    monkeypatch.setattr("runners.lab.report.SECTIONS", (table3.section,))


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("survives", range(5))  # figure as SVG and PDF, then the three texts
def test_a_report_killed_while_it_is_written_leaves_every_text_with_its_figures(survives, tmp_path, monkeypatch):
    axes = {"block": ["baseline"], "optim.lr": RATES, "train.seed": [0]}
    study = make(tmp_path / "killed", axes, lambda s: 2.0)
    assert command([str(study)]) == 0
    (study / "cells/baseline-0.1-0/status.json").write_text('{"state": "diverged", "step": 50, "reason": "a NaN"}')
    write, old, left = module.write, text(study), iter(range(survives))

    def killed(path, data):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return write(path, data)

    monkeypatch.setattr(module, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        command([str(study)])
    assert (text(study) == old) == (survives < 4)
    assert all((study / "report" / name).is_file() for name in shown(study))
    monkeypatch.setattr(module, "write", write)
    assert command([str(study)]) == 0
    assert {f"figures/{path.name}" for path in (study / "report/figures").iterdir()} == shown(study)


def shown(study: Path) -> set[str]:
    """Figures that the Markdown and the LaTeX of a report name."""
    texts = (study / "report" / name for name in ("report.md", "report.tex"))
    return {name for path in texts for name in re.findall(r"figures/[a-z0-9-]+\.(?:svg|pdf)", path.read_text())}


@pytest.mark.usefixtures("brief")
def test_wrong_input_is_one_line(tmp_path, capsys):
    assert command([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}: error: no study has begun in this directory; `blockgraph sweep STUDY.yaml` begins one\n"
    )
    study = make(tmp_path / "s", {"block": ["baseline"], "optim.lr": RATES}, lambda s: INITIAL - 2)
    (tmp_path / "taken").write_text("")
    assert command([str(study), "-o", str(tmp_path / "taken")]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}/taken/figures: error: cannot make the folder: Not a directory; name another with -o\n"
    )
    assert (tmp_path / "taken").read_text() == ""
    with pytest.raises(SystemExit, match="2"):
        command([str(study), "--margin", "-1"])
    assert "--margin: expected a number of nats, 0 or more, found '-1'" in capsys.readouterr().err

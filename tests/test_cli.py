"""The command line as a user meets it: help, exit codes, one line for each mistake, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blockgraph.cli import COMMANDS, main
from blockgraph.library import shipped_folder

PLUGINS = ("train", "data")


@pytest.mark.parametrize("command", [*COMMANDS, *PLUGINS])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"blockgraph {command}" in shown.partition("example")[2]


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in (*COMMANDS, *PLUGINS) if f"\n  {name} " not in shown] == []


def test_an_unknown_command_is_told_its_near_miss(capsys):
    assert main(["chekc"]) == 2
    assert capsys.readouterr().err == "blockgraph: error: no command is called 'chekc'; did you mean 'check'?\n"


@pytest.mark.parametrize("arguments", [["check"], ["show", "gpt", "--batch", "0"], ["compile", "gpt", "--colour"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_check_prints_a_line_a_spec_and_goes_on_after_a_bad_one(capsys):
    assert main(["check", "baseline", "basline", "gpt"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "baseline: ok: block baseline, 17 nodes, 12,584,960 parameters",
        "gpt: ok: model gpt, 4 nodes, 826,328,064 parameters",
    ]
    assert shown.err == "basline: error: no spec is called 'basline'; did you mean 'baseline'?\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("n_layer=4", "<command line>: error: no dim or slot is called 'n_layer'; did you mean 'n_layers'?"),
        ("n_layers", "<command line>: error: --set takes KEY=VALUE, found 'n_layers'"),
        ("block=qk_nrm", "<command line>: error: no spec is called 'qk_nrm'; did you mean 'qk_norm'?"),
        ("size=tniy", "<command line>: error: no size is called 'tniy'; did you mean 'tiny'?"),
        ("d_model=9**9**9", "<command line>: error: d_model: a power of a size is a whole number from 0 to 64"),
    ],
)
def test_a_bad_setting_is_told_in_one_line(setting, message, capsys):
    assert main(["check", "gpt", "--set", setting]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_show_adds_up(capsys):
    assert main(["show", "gpt", "--set", "size=tiny", "--seq", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "parameters       131,392" in lines
    assert any(line.startswith("layers × 2") for line in lines)


def test_show_tells_the_blocks_of_a_stack_apart(tmp_path, capsys):
    text = "model: two\n" + (shipped_folder() / "models" / "gpt.yaml").read_text().partition("model: gpt\n")[2]
    text = text.replace("slots: {block: baseline}", "slots: {even: baseline, odd: qk_norm}")
    (tmp_path / "two.yaml").write_text(text.replace("of: block", "of: [even, even, odd]"))
    assert main(["show", str(tmp_path / "two.yaml"), "--set", "n_layers=6"]) == 0
    rows = capsys.readouterr().out.splitlines()
    first = rows.index("  baseline × 4")
    assert rows[first - 1].startswith("layers × 6 ")
    assert rows[first + 1].startswith("  attn.ln ")
    assert rows.index("  qk_norm × 2") > first


def test_compile_prints_or_writes_the_same_text(tmp_path, capsys):
    assert main(["compile", "qk_norm", "--set", "d_model=64", "--set", "n_heads=4"]) == 0
    printed = capsys.readouterr().out
    assert main(["compile", "qk_norm", "--set", "d_model=64", "--set", "n_heads=4", "-o", str(tmp_path / "m.py")]) == 0
    assert (tmp_path / "m.py").read_text() == printed


def test_a_folder_that_is_missing_is_told_and_nothing_is_left(tmp_path, capsys):
    target = tmp_path / "missing" / "module.py"
    assert main(["compile", "baseline", "-o", str(target)]) == 1
    assert capsys.readouterr().err == f"{target}: error: cannot write the file: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_new_writes_paths_that_lead_to_the_same_blocks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("far").mkdir()
    head = "block: {0}\ninputs: {{x: [batch, seq, 8]}}\nnodes: {{{0}: {1}}}\noutputs: {{x: {0}}}\n"
    Path("far/inner.yaml").write_text(head.format("fc", "{op: linear, out: 8}"))
    Path("far/outer.yaml").write_text(head.format("deep", "{op: stack, of: ./inner.yaml, repeat: 2}"))
    assert main(["new", "mine.yaml", "--like", "far/outer.yaml"]) == 0
    assert main(["check", "./mine.yaml"]) == 0


def test_a_module_is_never_written_over_a_spec(tmp_path, capsys):
    spec = tmp_path / "mine.yaml"
    assert main(["new", str(spec)]) == 0
    before = spec.read_text()
    capsys.readouterr()
    assert main(["compile", str(spec), "-o", str(spec)]) == 1
    told = "a module is Python, and this is the name of a spec; name a .py file with -o"
    assert capsys.readouterr().err == f"{spec}: error: {told}\n"
    assert spec.read_text() == before


def test_what_goes_with_a_run_is_not_passed_over_without_one(tmp_path, capsys):
    assert main(["render", "baseline", "-o", str(tmp_path / "figure.svg"), "--layer", "0", "--step", "5"]) == 1
    told = "--layer and --step without --stats; --stats RUN names the run whose measurements colour the figure"
    assert capsys.readouterr().err == f"<command line>: error: {told}\n"
    assert list(tmp_path.iterdir()) == []


def test_new_writes_a_spec_that_checks_and_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine", "--like", "qk_norm_cap"]) == 0
    assert main(["check", "mine.yaml"]) == 0
    before = Path("mine.yaml").read_text()
    capsys.readouterr()
    assert main(["new", "mine.yaml"]) == 1
    assert capsys.readouterr().err == "mine.yaml: error: the file exists already; choose another name\n"
    assert Path("mine.yaml").read_text() == before


def test_ops_prints_a_page_and_knows_near_misses(capsys):
    assert main(["ops", "layer_norm"]) == 0
    page = capsys.readouterr().out
    assert all(word in page for word in ("eps", "gain", "1607.06450", "example:"))
    assert main(["ops", "layernorm"]) == 1
    assert capsys.readouterr().err == "<command line>: error: no op is called 'layernorm'; did you mean 'layer_norm'?\n"


def test_commands_without_tensors_do_not_import_torch(tmp_path):
    script = (
        "import sys; from blockgraph.cli import main\n"
        "for line in sys.argv[1].split(';'): assert main(line.split()) == 0, line\n"
        "assert 'torch' not in sys.modules"
    )
    lines = f"check gpt;show qk_norm;diff baseline qk_norm;render qk_norm -o {tmp_path}/f.dot;list;ops;compile baseline"
    subprocess.run([sys.executable, "-c", script, lines], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_that_leaves_is_no_error():
    piped = f"{sys.executable} -m blockgraph compile gpt | head -1"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {piped}"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_difference_is_told_alike_whatever_texts_hash_to():
    told = set()
    for seed in ("5", "7"):  # with these two, ties between nodes were once broken in two ways
        command = [sys.executable, "-m", "blockgraph", "diff", "mixtral", "gpt_oss"]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        told.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(told) == 1
    assert "gpt_oss" in told.pop()

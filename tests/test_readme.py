"""The README kept true: its tree, and its first own block followed to the letter."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_names_every_file_by_its_first_sentence():
    checked = subprocess.run([sys.executable, "tools/tree.py", "--check"], cwd=ROOT, check=False)
    assert checked.returncode == 0, "run `python tools/tree.py` and commit the README"


def section() -> str:
    return README.partition("## A first block of your own")[2].partition("\n## ")[0]


def commands(number: int) -> list[str]:
    """Lines of the section's plain code blocks, without entering the virtual environment."""
    blocks = [text for kind, text in re.findall(r"```(\w*)\n(.*?)```", section(), flags=re.S) if not kind]
    return [line for line in blocks[number].splitlines() if line.startswith("blockgraph")]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        line, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )


def test_a_first_own_block_followed_to_the_letter_works(tmp_path):
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    for line in commands(0):
        ended = run(line, tmp_path)
        assert ended.returncode == 0, ended.stderr
    added = re.search(r"```yaml\n(      cap: .*\n)```", section())
    block = tmp_path / "my_block.yaml"
    assert added is not None
    block.write_text(re.sub(r"(\n      mask:)", f"\n{added[1].rstrip()}\\1", block.read_text()))
    assert len(commands(1)) == 5
    for line in commands(1):
        ended = run(line, tmp_path)
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"
    assert "attn.cap" in run("blockgraph diff qk_norm my_block.yaml", tmp_path).stdout
    assert (tmp_path / "my_block.svg").exists()
    assert '"finished"' in (tmp_path / "runs/mine/status.json").read_text()


def test_the_mistake_that_the_readme_shows_is_told_so(tmp_path):
    run("blockgraph new my_block.yaml --like qk_norm", tmp_path)
    block = tmp_path / "my_block.yaml"
    mask = "      mask:    {op: causal_mask}\n"
    block.write_text(block.read_text().replace(mask, mask + "      cap:     {op: soft_cap, cap: 30}\n"))
    shown = re.search(r"```\n(my_block.yaml:.*?)```", section(), flags=re.S)
    assert shown is not None
    assert run("blockgraph check my_block.yaml", tmp_path).stderr == shown[1]

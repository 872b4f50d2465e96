"""The README's tree, made from every file's first sentence; `--check` compares instead of writing."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "## The tree\n\n```\n", "\n```\n"
WIDTH = 44
FOLDERS = {
    "specs/blocks": "the paper's ten blocks",
    "specs/ablations": "blocks that ask for the cause of divergence: an output held at a set norm, norms after all "
    "linears",
    "specs/models": "models, with their sizes as data",
    "specs/zoo": "published models, and the maps by which Hugging Face checkpoints become them and back",
    "specs/edits": "the paper's nine methods as edits, and the places that edits name",
    "specs/runs": "run files",
    "specs/studies": "study files: the papers' experiments, at full size and as proxies for two CPU cores",
    "tests": "sorted by what they need: pure Python, torch, several gloo processes (dist), a GPU (gpu)",
    "schema": "the JSON Schemas for editors, of specs and of edits",
    "docs": "gallery of specs, results of studies, probes, losses, edits, ops, reliability, sampling, the log, data",
    "tools": "setting up, the gallery, and this tree",
    "benchmarks": "one script a question, each printing one table",
}


def tree() -> str:
    """Lines of the tree: folders, and the Python files of the two packages with their first sentences."""
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).split()
    lines: list[str] = []
    for folder in sorted({str(Path(file).parent) for file in files if file.endswith(".py")} & packages(files)):
        lines.append(f"{folder}/")
        lines += [_line(file) for file in sorted(files) if str(Path(file).parent) == folder and file.endswith(".py")]
    present = [folder for folder in FOLDERS if any(file.startswith(f"{folder}/") for file in files)]
    return "\n".join([*lines, *(f"{folder + '/':<{WIDTH}}{FOLDERS[folder]}" for folder in present)])


def packages(files: list[str]) -> set[str]:
    """Folders that belong to the two packages."""
    return {str(Path(file).parent) for file in files if file.split("/")[0] in ("blockgraph", "runners")}


def _line(file: str) -> str:
    about = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
    return f"  {Path(file).name:<{WIDTH - 2}}{' '.join(about.partition(chr(10) * 2)[0].split())}"


def main() -> int:
    """Write the README, or say whether it is true."""
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    new = head + BEGIN + tree() + END + rest.partition(END)[2]
    if "--check" in sys.argv:
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

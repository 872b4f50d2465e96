"""`blockgraph new`: a spec to start from."""

import argparse
from pathlib import Path

from blockgraph.errors import Place, Problem, Problems, SpecError
from blockgraph.files import write
from blockgraph.load import edited_text
from blockgraph.names import check_name

HELP = "write a spec to start from: a copy of a shipped one under a new name"
EXAMPLE = "blockgraph new my_block.yaml --like qk_norm"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", metavar="FILE.yaml", help="the file to write; its name is the spec's")
    parser.add_argument("--like", metavar="SPEC", default="baseline", help="the spec to copy (default baseline)")


def run(args: argparse.Namespace) -> int:
    """Write the copy; a file that exists is left alone."""
    path = Path(args.file if args.file.endswith((".yaml", ".yml")) else f"{args.file}.yaml")
    problems = Problems()
    check_name(path.stem, "the spec", Place(str(path), 0), problems)
    problems.stop_if_any()
    if path.exists():
        raise SpecError([Problem("the file exists already; choose another name", Place(str(path), 0))])
    source = edited_text(args.like, folder=path.parent).text
    write(path, renamed(source, path.stem))
    print(f"wrote {path}; next: blockgraph check {path}")
    return 0


def renamed(text: str, name: str) -> str:
    """A spec's text under another name and title, without the paper that described the original."""
    lines = [line for line in text.splitlines() if not line.startswith(("# yaml-language-server", "paper:"))]
    new = {"block": name, "model": name, "title": name.replace("_", " ").capitalize()}
    return "".join(f"{_put(line, new)}\n" for line in lines)


def _put(line: str, new: dict[str, str]) -> str:
    key = line.partition(":")[0]
    return f"{key}: {new[key]}" if key in new else line

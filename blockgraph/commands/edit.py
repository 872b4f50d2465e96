"""`blockgraph edit`: a change written once, applied to any spec."""

import argparse
import os
import sys
from pathlib import Path

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.edits.editing import Edited
from blockgraph.edits.file import edit_of
from blockgraph.edits.moving import SCHEMA, unsigned
from blockgraph.errors import Place, Problems, SpecError
from blockgraph.files import write
from blockgraph.library import shipped_edits
from blockgraph.load import edited_text
from blockgraph.names import check_name

HELP = "apply changes that are written once to any spec; writes a whole new one"
EXAMPLE = """blockgraph edit baseline --apply qk_norm --apply soft_cap -o my_block.yaml
  blockgraph edit baseline --apply ./my_edit.yaml
  blockgraph edit --list"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("base", nargs="?", metavar="BASE", help="a path, or the name of a shipped spec")
    parser.add_argument(
        "--apply", action="append", default=[], metavar="EDIT",
        help="an edit file, or the name of a shipped edit; several are applied in order",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="the file to write, its name is the spec's; - prints it"
    )
    parser.add_argument("--list", action="store_true", help="print the edits that ship with the package")
    add_ops(parser)


def run(args: argparse.Namespace) -> int:
    """Write the new text, and say what was done to the old one."""
    ops = own_ops(args.ops)
    if args.list:
        print("\n".join(listed()))
        return 0
    if args.base is None or not args.apply:
        raise _refuse("an edit takes BASE and --apply EDIT", "`blockgraph edit --list` shows the shipped edits")
    folder = None if args.output == "-" else Path(args.output).parent
    made = edited_text(args.base, *args.apply, ops=ops, name=_name(args.output), folder=folder)
    if args.output == "-":
        sys.stdout.write(made.text)
        return 0
    path = write(args.output, _signed(made, Path(args.output)))
    print("\n".join([*made.notes, f"wrote {path}"]))
    return 0


def listed() -> list[str]:
    """One line for each shipped edit."""
    ops, edits = own_ops([]), shipped_edits()
    width = max(map(len, edits))
    read = {name: edit_of(path, ops) for name, path in edits.items()}
    return [f"edit   {name:<{width}} {edit.title} ({edit.paper})" for name, edit in read.items()]


def _name(output: str) -> str:
    """The name of a spec by that of its file; empty where none is written."""
    if output == "-":
        return ""
    problems = Problems()
    check_name(Path(output).stem, "the spec", Place(output, 0), problems)
    if Path(output).suffix not in (".yaml", ".yml"):
        problems.add("a spec is a .yaml file", Place(output, 0))
    problems.stop_if_any()
    return Path(output).stem


def _signed(made: Edited, path: Path) -> str:
    """The text without the line that tells editors a schema, where that would lead nowhere from the new place."""
    first = made.text.partition("\n")[0]
    lost = first.startswith(SCHEMA) and not os.path.isfile(path.parent / first.removeprefix(SCHEMA).strip())
    return unsigned(made.text) if lost else made.text


def _refuse(message: str, hint: str) -> SpecError:
    problems = Problems()
    problems.add(message, Place("<command line>", 0), hint)
    return SpecError(problems.found)

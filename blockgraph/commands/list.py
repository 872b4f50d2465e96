"""`blockgraph list`: the specs and the edits that ship with the package."""

import argparse

from blockgraph.commands.edit import listed
from blockgraph.library import shipped
from blockgraph.syntax import plain, read

HELP = "the shipped specs and edits"
EXAMPLE = "blockgraph list"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> int:
    """Print one line a spec, and one an edit."""
    width = max(map(len, shipped()))
    for name, path in shipped().items():
        spec = plain(read(path))
        kind = "model" if "model" in spec else "block"
        print(f"{kind}  {name:<{width}} {spec['title']} ({spec['paper']})")
    print("\n".join(listed()))
    return 0

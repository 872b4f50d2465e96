"""`blockgraph schema`: the JSON Schema by which editors complete and check specs, and that of edits."""

import argparse
import json
import sys

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.edits import jsonschema as edits
from blockgraph.files import write
from blockgraph.jsonschema import schema

HELP = "the JSON Schema for editors"
EXAMPLE = """blockgraph schema -o schema/spec.schema.json
  blockgraph schema --edit -o schema/edit.schema.json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the file to write; - (default) prints it")
    parser.add_argument("--edit", action="store_true", help="that of edit files in place of that of specs")
    add_ops(parser)


def run(args: argparse.Namespace) -> int:
    """Write or print the schema."""
    made = edits.schema if args.edit else schema
    text = json.dumps(made(own_ops(args.ops)), indent=1) + "\n"
    if args.output == "-":
        sys.stdout.write(text)
    else:
        print(f"wrote {write(args.output, text)}")
    return 0

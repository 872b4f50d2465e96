"""`blockgraph schema`: the JSON Schema by which editors complete and check specs."""

import argparse
import json
import sys

from blockgraph.commands.common import add_ops, own_ops
from blockgraph.files import write
from blockgraph.jsonschema import schema

HELP = "the JSON Schema for editors"
EXAMPLE = "blockgraph schema -o schema/spec.schema.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the file to write; - (default) prints it")
    add_ops(parser)


def run(args: argparse.Namespace) -> int:
    """Write or print the schema."""
    text = json.dumps(schema(own_ops(args.ops)), indent=1) + "\n"
    if args.output == "-":
        sys.stdout.write(text)
    else:
        print(f"wrote {write(args.output, text)}")
    return 0

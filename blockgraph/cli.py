"""The command line: finds the command, runs it, tells a user's mistake in one line each."""

import argparse
import os
import sys
from importlib import import_module
from importlib.metadata import entry_points, version

from blockgraph.errors import SpecError, near_miss
from blockgraph.own import raised_by_own

COMMANDS = ("check", "show", "render", "diff", "compile", "ops", "list", "new", "edit", "schema")
PLUGINS = "blockgraph.commands"  # entry points: a function of the arguments after its name

USAGE = "blockgraph COMMAND ..."
EPILOG = """\
example:
  blockgraph check qk_norm
  blockgraph render qk_norm -o qk_norm.svg --diff baseline
  blockgraph train specs/runs/demo.yaml

Each command has --help. A spec is a path, or the bare name of one that ships with the package (blockgraph list).
exit status: 0 success, 1 the input is at fault, 2 wrong usage; train and sweep add their own, see their --help.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _run(arguments)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader went away, as `head` does; keep Python from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        fault = raised_by_own(error)
        if fault is None:
            raise
        print(fault, file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"blockgraph {version('blockgraph')}")
        return 0
    if name in COMMANDS:
        return _builtin(name, rest)
    for plugin in entry_points(group=PLUGINS, name=name):
        return int(plugin.load()(rest))
    return _unknown(name)


def _builtin(name: str, rest: list[str]) -> int:
    module = import_module(f"blockgraph.commands.{name}")
    parser = argparse.ArgumentParser(
        f"blockgraph {name}", description=module.HELP, epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    module.arguments(parser)
    return int(module.run(parser.parse_args(rest)))


def _help() -> str:
    lines = [f"  {name:<9} {import_module(f'blockgraph.commands.{name}').HELP}" for name in COMMANDS]
    for plugin in sorted(entry_points(group=PLUGINS), key=lambda plugin: plugin.name):
        about = (plugin.load().__doc__ or "").strip().partition("\n")[0].rstrip(".")
        lines.append(f"  {plugin.name:<9} {about[:1].lower()}{about[1:]}")
    return "\n".join([f"usage: {USAGE}", "", "A Transformer block as one YAML graph.", "", *lines, "", EPILOG.rstrip()])


def _unknown(name: str) -> int:
    known = [*COMMANDS, *(plugin.name for plugin in entry_points(group=PLUGINS))]
    hint = near_miss(name, known) or f"commands are {', '.join(known)}"
    print(f"blockgraph: error: no command is called '{name}'; {hint}", file=sys.stderr)
    return 2

"""Graphviz in a process of its own: DOT with pinned positions on stdin, the drawing on stdout.

It runs as a script, apart from the package: it starts fast, and a crash or a limit ends it alone.
"""

import resource
import sys

MEMORY = 2 * 2**30  # bytes of address space
SECONDS = 20  # of processor time
MISSING = 3  # exit status when the pygraphviz package is not there


def main() -> int:
    """Draw stdin in the format named by the first argument."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        from pygraphviz import AGraph
    except ImportError as error:
        print(error, file=sys.stderr)
        return MISSING
    sys.stdout.buffer.write(AGraph(string=sys.stdin.read()).draw(format=sys.argv[1], prog="nop2"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

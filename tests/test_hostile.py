"""Files made to hang, crash or run something: each is refused, by a process that has to answer in time."""

import ast
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

import blockgraph

TIME_LIMIT_S = 20  # far more than any of them takes; without it a hang would hang the tests
FRONT = """
    errors syntax values compose schema size dims expression polynomial types names header library scope members
    wiring holding link faulty check owners usage causality load choice graph jsonschema
"""
WORKER = """
import json, resource, sys
from blockgraph.errors import SpecError
from blockgraph.load import load
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
for line in sys.stdin:
    try:
        load(json.loads(line))
        answer = ["valid", ""]
    except SpecError as error:
        answer = ["refused", str(error)]
    except BaseException as error:
        answer = ["crashed", repr(error)]
    print(json.dumps(answer), flush=True)
"""


class Worker:
    """A process that loads one spec after the other and is killed when it does not answer."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, spec):
        self.process.stdin.write(json.dumps(str(spec)) + "\n")
        self.process.stdin.flush()
        answered = self.ready.select(TIME_LIMIT_S)
        line = self.process.stdout.readline() if answered else ""
        if not line:
            self.process.kill()
            pytest.fail(f"{'crashed' if answered else 'no answer'}: {spec}")
        return json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.ready.close()


@pytest.fixture(scope="module")
def running():
    found = []
    yield found
    for worker in found:
        worker.close()


@pytest.fixture
def ask(running):
    if not running or running[-1].process.poll() is not None:
        running.append(Worker())
    return running[-1].ask


def spec(nodes="  act: {op: relu}\n", dims="{d: 64}", extra=""):
    return f"block: b\n{extra}dims: {dims}\ninputs: {{x: [batch, seq, d]}}\nnodes:\n{nodes}outputs: {{x: act}}\n"


def many(line, count):
    return "".join(line.format(i=i, next=(i + 1) % count) for i in range(count))


def squares(first, count):
    chain = "".join(f", s{i}: s{i - 1} * s{i - 1}" for i in range(1, count))
    return spec(dims=f"{{d: 64, s0: {first}{chain}}}")


TEN = [f"a{i}" for i in range(10)]
SUM = f"{{d: 1, {', '.join(f'{name}: 1' for name in TEN)}, big: ({' + '.join(TEN)})**60}}"
STACK = "  act: {{op: stack, in: x, of: {of}, repeat: {repeat}}}\n"
INNER = "blocks: {i: {block: i, dims: {d: 64}, inputs: {x: [batch, seq, d]}, nodes: %s, outputs: {x: act}%s}}\n"
NESTED = INNER % ("{act: {op: stack, in: x, of: i, repeat: 10000}}", ", " + (INNER % ("{act: {op: relu}}", "")).strip())

REFUSED = {
    "flow lists in flow lists": "block: " + "[" * 900_000,
    "flow mappings in flow mappings": "{a: " * 200_000,
    "block lists in block lists": "- " * 400_000,
    "keys in keys": "? " * 400_000,
    "indentation without end": "".join(" " * i + f"k{i}:\n" for i in range(1200)),
    "nodes in groups in groups": spec("  act: " + "{nodes: {act: " * 40 + "{op: relu}" + "}}" * 40 + "\n"),
    "an alias bomb": "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(20)),
    "an alias to itself": "block: &a [*a]\n",
    "a chain of merge keys": "a: &a {x: 1}\n" + "".join(f"k{i}: {{<<: [*a, *a]}}\n" for i in range(1000)),
    "one word of 900 kB": spec(extra=f"title: {'x' * 900_000}\n"),
    "a number of 9,000 digits": spec(dims=f"{{d: {'9' * 9000}}}"),
    "a hexadecimal number of 900 kB": spec(dims="{d: 0x" + "f" * 900_000 + "}"),
    "a fraction of 9,000 digits": spec(dims="{d: 0." + "3" * 9000 + "}"),
    "a float out of bounds": spec(dims="{d: 1e999999999}"),
    "a file of 10 MB": "# " + "x" * 10_000_000,
    "more values than allowed": "a: [" + "1, " * 250_000 + "]\n",
    "250,000 documents": "---\na\n" * 160_000,
    "a layer count of 10**9": spec(STACK.format(of="baseline", repeat=10**9)),
    "a layer count of 10**300": spec(STACK.format(of="baseline", repeat="10**60")),
    "a pattern of 100,000 blocks": spec(STACK.format(of="[" + "nothing, " * 90_000 + "]", repeat=5)),
    "stacks of stacks": spec(STACK.format(of="i", repeat=10_000), extra=NESTED),
    "a tower of powers": spec(dims="{d: 9**9**9**9}"),
    "a power of a power": spec(dims="{d: 2, e: ((((d**60)**60)**60)**60)**60}"),
    "a sum of ten dims to the power of 60": spec(dims=SUM),
    "a run-time dim squared again and again": squares("3 * seq", 200),
    "a fraction squared again and again": squares("seq / 3 + 1", 200),
    "brackets round brackets": spec(dims="{d: '" + "(" * 99 + "1" + ")" * 99 + "'}", nodes="  act: {op: rope}\n"),
    "minus after minus": spec(dims="{d: '" + "-" * 199 + "1'}"),
    "a NUL": "block: a\0b\n",
    "a NUL by escape": spec(extra='title: "a\\0b"\n'),
    "an escape sequence in a title": spec(extra='title: "\\e[2J"\n'),
    "a control character in a name": spec('  "a\\x07": {op: relu, in: x}\n  act: {op: relu}\n'),
    "a newline in a name": spec('  "a\\nb": {op: relu, in: x}\n  act: {op: relu}\n'),
    "a Cyrillic letter in a name": spec("  аct: {op: relu, in: x}\n  act: {op: relu}\n"),
    "a line separator": "block: b\u2028x: y\n",
    "a byte-order mark in the middle": "block: b\ufeff\n",
    "a tag that would run something": "block: !!python/object/apply:os.system [touch ran]\n",
    "a tag of one's own": "%TAG ! tag:yaml.org,2002:python/\n---\nblock: !object/apply:os.system [touch ran]\n",
    "an expression that would run something": spec(dims='{d: \'__import__("os").system("touch ran")\'}'),
    "an op that would run something": spec("  act: {op: 'os.system', in: x}\n"),
    "a block at a device": spec(STACK.format(of="/dev/zero", repeat=2)),
    "a block at a directory": spec(STACK.format(of="./", repeat=2)),
    "a block with a name of 9,000 letters": spec(STACK.format(of="x" * 9000, repeat=2)),
    "a block with a path of 9,000 letters": spec(STACK.format(of="x/" * 4500, repeat=2)),
    "20,000 faults": spec(many("  n{i}: {{op: rellu}}\n", 20_000)),
    "20,000 faults in one line": "block: b\ndims: {" + ", ".join(f"d{i}: -1" for i in range(20_000)) + "}\n",
    "20,000 names that mean nothing": spec(many("  n{i}: {{op: relu, in: m{i}}}\n", 20_000)),
    "one circle of 10,000 nodes": spec(many("  n{i}: {{op: relu, in: n{next}}}\n", 10_000)),
    "5,000 circles": spec(many("  a{i}: {{op: relu, in: b{i}}}\n  b{i}: {{op: relu, in: a{i}}}\n", 5000)),
    "10,000 dead ends": spec(many("  n{i}: {{op: linear, out: d, in: x}}\n", 10_000) + "  act: {op: relu}\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_text_is_refused_in_time(name, tmp_path, ask):
    path = tmp_path / "hostile.yaml"
    path.write_text(REFUSED[name], encoding="utf-8")
    verdict, told = ask(path)
    assert verdict == "refused", told
    assert "error: " in told
    assert len(told) < 200_000
    assert not (tmp_path / "ran").exists()
    assert not Path("ran").exists()


NO_TEXT = {
    "a lone surrogate": b"\xed\xa0\x80: 1\n",
    "UTF-16": b"\xff\xfea\0:\0 \0",
    "half a character": b"block: \xc3",
    "NULs": bytes(1000),
    "no text at all": b"\x80" * 900_000,
    "a byte-order mark alone": b"\xef\xbb\xbf",
}


@pytest.mark.parametrize("data", NO_TEXT.values(), ids=NO_TEXT)
def test_bytes_that_are_no_text_are_refused(data, tmp_path, ask):
    path = tmp_path / "hostile.yaml"
    path.write_bytes(data)
    verdict, told = ask(path)
    assert verdict == "refused", told


def test_places_that_are_no_file_are_refused(tmp_path, ask):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "lost.yaml")
    names = ["pipe.yaml", "loop.yaml", "nowhere.yaml", "absent.yaml", "", "a\0b.yaml", "x" * 5000, "x/" * 5000]
    for place in ["/dev/zero", "/dev/null", "/", "./", "", "~", *(f"{tmp_path}/{name}" for name in names)]:
        verdict, told = ask(place)
        assert verdict == "refused", (place, told)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_refused(tmp_path, ask):
    path = tmp_path / "closed.yaml"
    path.write_text(spec())
    path.chmod(0)
    assert ask(path)[0] == "refused"


def test_a_held_pipe_is_not_waited_for(tmp_path, ask):
    os.mkfifo(tmp_path / "pipe.yaml")
    path = tmp_path / "holder.yaml"
    path.write_text(spec(STACK.format(of="./pipe.yaml", repeat=2)))
    assert ask(path)[0] == "refused"


def test_what_a_terminal_would_act_on_is_never_printed(tmp_path, ask):
    path = tmp_path / "hostile.yaml"
    path.write_text(spec('  "a\\u202e\\u200b\\n": {op: relu, in: x}\n  act: {op: relu}\n'), encoding="utf-8")
    told = ask(path)[1]
    assert all(c.isprintable() or c == "\n" for c in told)
    assert len(told.splitlines()) == 3


def test_nothing_in_the_front_half_runs_text():
    parses = []
    for name in FRONT.split():
        path = Path(blockgraph.__file__).parent / f"{name}.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__", "getattr", "import_module"), name
                assert not called.startswith(("importlib", "os.system", "subprocess", "yaml.load", "pickle")), name
                parses += [(name, ast.unparse(node))] * (called == "ast.parse")
    assert parses == [("expression", "ast.parse(text, mode='eval')")]

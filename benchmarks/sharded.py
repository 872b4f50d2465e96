"""Memory of a run over four processes, all of them together: what is planned, what the system counts, by phase.

With `quarter` a model of 64,000 words and 6 layers; without, gpt of 830M as it stands, for 20 GB.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from blockgraph.commands.common import own_ops
from runners import runfile
from runners.devices import DEVICES, Machines
from runners.planning import holdings, plan
from runners.spec import graph_of, vocab_of

RANKS = 4
SIZES = {
    "small": {"vocab": 16_000, "n_layers": 2, "d_model": 512, "n_heads": 8},
    "full": {"vocab": 256_000},
    "quarter": {"vocab": 64_000, "n_layers": 6},
}
PERIOD = 0.2  # seconds between two readings
LEAST_FREE = 1.5e9  # bytes of the machine, below which a run is ended
GB = 1e9
RUN = """run: large
model: gpt
set: {sizes}
data: {{train: [{{path: words.txt}}], seq: 32}}
tokenizer: {{vocab: 300}}
train: {{steps: 2, batch: 4, micro_batch: 1}}
schedule: {{warmup: 1}}
log: {{every: 1, evaluate: 2, evaluate_tokens: 128}}
checkpoint: {{every: 1}}
"""
IMPORTED = "import runners.session, torch._dynamo, torch.distributed.fsdp, time; print(flush=True); time.sleep(600)"


@dataclass
class Watched:
    """The most that processes took together, in bytes, by the phase they were in; their proportional shares added.

    They are killed once there is a file `until`, and where the machine's memory comes to an end.
    """

    phase: str
    until: Path | None = None
    most: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def follow(self, parent: int, over: threading.Event) -> None:
        """Read until it is over."""
        while not over.wait(PERIOD):
            phase, found = self.phase, sum(map(share, children(parent)))
            self.most[phase] = max(self.most.get(phase, 0), found)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + PERIOD
            if free() < LEAST_FREE or (self.until and self.until.exists()):
                for pid in children(parent):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Print a line for each phase of a run that is killed after its first checkpoint and goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", choices=SIZES, default="full")
    parser.add_argument("--folder", type=Path, help="where the run is kept (default: a folder that is removed)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.size, options.folder or Path(folder))
    print(f"{'phase':<34}{'planned':>10}{'measured':>10}{'of it':>8}{'seconds':>9}")
    for phase, (planned, measured, seconds) in rows.items():
        told = f"{planned / GB:10.2f}{measured / GB:10.2f}{measured / planned:8.2f}" if planned else " " * 10
        print(f"{phase:<34}{told if planned else f'{told}{measured / GB:10.2f}{str():>8}'}{seconds:9.0f}")


def measure(size: str, folder: Path) -> dict[str, tuple[int, int, float]]:
    """For each phase what is planned, what was measured without the programs themselves, and how long it took."""
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / "run.yaml"
    file.write_text(RUN.format(sizes=json.dumps(SIZES[size]).replace('"', "")))
    (folder / "words.txt").write_text("\n".join(f"the {n} small words of line {n * 7919 % 1009}." for n in range(2000)))
    os.environ.setdefault("BLOCKGRAPH_CACHE", str(folder / "cache"))
    expected, programs = planned(file), imported()
    first = started(file, folder, {"peak": "the first step", "step 1/2": "saving"}, killed=True)
    second = started(file, folder, {"goes on": "a step after going on", "step 2/2": "saving again"}, killed=False)
    rows = {"programs alone": (0, programs, 0.0)}
    for phase in [*first.most, *second.most]:
        found = second if phase in second.most else first
        rows[phase] = expected.get(phase, 0), found.most[phase] - programs, found.seconds[phase]
    top = max([*first.most.values(), *second.most.values()])
    return rows | {"the most at any time, all in all": (0, top, 0.0)}


def planned(file: Path) -> dict[str, int]:
    """What the four processes are expected to take in each phase, beside their programs."""
    run = runfile.load(file)
    graph = graph_of(run, own_ops([]), vocab_of(run))
    step = plan(run, graph, Machines("cpu", DEVICES["cpu"], 1, RANKS, RANKS, 0.4)).modes["none"]
    held = holdings(graph, run.config, RANKS)
    saved = RANKS * (held.weights + held.optimiser)
    fullest = RANKS * sum(step.parts.values())
    # The moments are made by the first update, when the gradients of all parameters are there and nothing else.
    first = max(fullest - RANKS * held.optimiser, saved + RANKS * held.gradients)
    return {"the first step": first, "a step after going on": fullest, "saving": saved, "saving again": saved}


def started(file: Path, folder: Path, phases: dict[str, str], killed: bool) -> Watched:
    """The run on four processes, to its end or killed when it has written its first checkpoint."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command = [*launcher, "--shutdown-timeout", "600", "-m", "runners.train", str(file), "--out", str(folder / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = folder / "run" / "checkpoints" / "step-00000001"
    watched = Watched("starting", first) if killed else Watched("starting and loading")
    over = threading.Event()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        thread = threading.Thread(target=watched.follow, args=(run.pid, over))
        thread.start()
        assert run.stdout
        try:
            _read(run.stdout, watched, phases)
        finally:
            over.set()
            thread.join()
    assert killed or run.returncode == 0, f"the run ended with {run.returncode}"
    assert first.exists(), "the run was killed before its first checkpoint, for memory"
    return watched


def _read(lines: IO[str], watched: Watched, phases: dict[str, str]) -> None:
    for line in lines:
        print(line, end="", file=sys.stderr)
        watched.phase = next((phase for start, phase in phases.items() if line.startswith(start)), watched.phase)


def imported() -> int:
    """What as many processes take that have imported what a run needs, and done nothing."""
    made = [subprocess.Popen([sys.executable, "-c", IMPORTED], stdout=subprocess.PIPE) for _ in range(RANKS)]
    try:
        for each in made:
            assert each.stdout
            each.stdout.readline()
        return sum(share(each.pid) for each in made)
    finally:
        for each in made:
            each.kill()
            each.wait()


def children(parent: int) -> list[int]:
    """Processes that this one has started."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def share(pid: int) -> int:
    """Proportional share of memory of a process, in bytes; 0 when it is gone."""
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return 1024 * int(found[1]) if found else 0
    return 0


def free() -> int:
    """Memory of the machine that can be had, in bytes."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()

"""All benchmarks, one after the other, to one page: `docs/results/performance.md`."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from measure import machine

HERE = Path(__file__).parent
ABOUT = "# Performance\n\nWritten by `make bench`; what was measured when stands below each script.\n"
HEAD = "\n## `benchmarks/"
PAGE = HERE.parent / "docs" / "results" / "performance.md"

# A script with its arguments, so that all together take about 40 minutes of one core; alone, each measures more.
RUNS = (
    "limits.py",
    "attention.py --seq 4096 --ways sdpa blockwise --rounds 7",
    "step.py --seq 256 --rounds 5",
    "step.py --seq 1024 --rounds 5",
    "optimizers.py --rounds 10",
    "probes.py --rounds 9",
    "probes.py --rounds 9 --groups --block qk_norm --seq 1024",
    "startup.py --rounds 3",
    "attention.py --seq 2048 --cores plain cap clip --rounds 3",
    "blocks.py --rounds 5",
    "overhead.py --rounds 20",
    "compile_time.py --rounds 1",
    "loss.py --rounds 3",
    "memory.py",
)


def main() -> None:
    """Run every script; the page is written after each, so that a run which is stopped leaves what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="SCRIPT", help="scripts to run, by file name; others keep what stands"
    )
    only = parser.parse_args().only
    parts = standing() if only else {}
    for run in RUNS:
        script, *arguments = run.split()
        if only and script not in only:
            continue
        print(f"{run} ...", flush=True)
        began = time.perf_counter()
        command = [sys.executable, str(HERE / script), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found = done.stdout.strip() if done.returncode == 0 else f"It failed with exit code {done.returncode}."
        seconds = time.perf_counter() - began
        parts[run] = f"{described(HERE / script)} ({seconds:.0f} s; {machine()})\n\n{found}"
        write(parts)


def standing() -> dict[str, str]:
    """What the page says of each run."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return {run: said.strip() for run, said in (part.split("`\n\n", 1) for part in text.split(HEAD)[1:])}


def write(parts: dict[str, str]) -> None:
    """The page, in the order of the runs."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    told = "".join(f"{HEAD}{run}`\n\n{parts[run]}\n" for run in RUNS if run in parts)
    PAGE.write_text(f"{ABOUT}{told}")
    print(f"written to {PAGE}", flush=True)


def described(script: Path) -> str:
    """The first sentence of a script."""
    return script.read_text().split('"""')[1].strip().partition("\n")[0]


if __name__ == "__main__":
    main()

"""What the benchmarks share: candidates timed in turn, the memory of a process, a table, the machine in words."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CPU = Path("/proc/cpuinfo")
Times = dict[str, list[float]]


def in_turn(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Seconds that each candidate takes of the process's CPU time, once a round; every other round runs backwards.

    CPU time leaves out what other programs take of the machine, and rounds let a slow spell meet all candidates.
    """
    found: Times = {name: [] for name in candidates}
    for number in range(rounds):
        for name in (candidates, reversed(list(candidates)))[number % 2]:
            began = time.process_time()
            candidates[name]()
            found[name].append(time.process_time() - began)
    return found


def ratios(times: Times, name: str, reference: str) -> list[float]:
    """A candidate's time over the reference's, round by round, from the least to the greatest."""
    return sorted(a / b for a, b in zip(times[name], times[reference], strict=True))


def table(times: Times, reference: str, more: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A row for each candidate: median, its ratio to the reference with the range of the rounds, and other columns."""
    more = more or {}
    lines = [" | ".join(["candidate", "median, ms", f"of {reference}", "range", *more])]
    lines.append("|".join(["---", *["---:"] * (3 + len(more))]))
    for name, seconds in times.items():
        found = ratios(times, name, reference)
        cells = [name, f"{1e3 * statistics.median(seconds):,.1f}", f"{statistics.median(found):.3f}"]
        cells.append(f"{found[0]:.2f} to {found[-1]:.2f}")
        lines.append(" | ".join([*cells, *(column.get(name, "") for column in more.values())]))
    return "\n".join(f"| {line} |" for line in lines).replace("| ---|", "|---|").replace("---: |", "---:|")


def grown(step: Callable[[], object]) -> int:
    """The most bytes by which the process was larger than before, as the system counts them."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


def status(name: str) -> int:
    """Bytes that the system tells of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


def machine() -> str:
    """Processor, cores, versions, date, and how many programs wanted to run in the last minute."""
    names = re.findall(r"model name\s*: (.*)", CPU.read_text()) if CPU.exists() else []
    processor = names[0] if names else platform.processor()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    date = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {versions}; {date}"

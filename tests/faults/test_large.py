"""The model of 830M as it stands over four processes: within 20 GB, as planned, and it goes on from its checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

SHARDED = Path(__file__).parents[2] / "benchmarks" / "sharded.py"
MOST_GB = 20.0
NAME = 34  # columns of a phase's name


@pytest.mark.slow
def test_830m_over_four_processes_takes_what_is_planned_and_less_than_20_gb(tmp_path):
    done = subprocess.run(
        [sys.executable, SHARDED, "full", "--folder", tmp_path], stdout=subprocess.PIPE, text=True, check=True
    )
    print(f"\n{done.stdout}")
    rows = {line[:NAME].strip(): line[NAME:].split() for line in done.stdout.splitlines()[1:]}
    planned, measured, *_ = map(float, rows["a step after going on"])
    assert measured == pytest.approx(planned, rel=0.1)
    assert float(rows["the most at any time, all in all"][0]) < MOST_GB

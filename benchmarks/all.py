"""All benchmarks, one after the other, to one page: `docs/results/performance.md`."""

import subprocess
import sys
from pathlib import Path

from measure import machine

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "performance.md"
HELPERS = ("all.py", "measure.py", "peers.py")


def main() -> None:
    """Run every script and write the page anew; a script that fails ends it, and the old page stays."""
    parts = [f"# Performance\n\nWritten by `make bench` on {machine()}."]
    for script in sorted(path for path in HERE.glob("*.py") if path.name not in HELPERS):
        print(f"{script.name} ...", flush=True)
        done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
        parts.append(f"## `benchmarks/{script.name}`\n\n{described(script)}\n\n{done.stdout.strip()}")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n\n".join(parts) + "\n")
    print(f"written to {PAGE}")


def described(script: Path) -> str:
    """The first sentence of a script."""
    return script.read_text().split('"""')[1].strip().partition("\n")[0]


if __name__ == "__main__":
    main()

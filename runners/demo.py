"""`make demo`: two blocks of the paper drawn, compiled, trained on real text, and shown on one page."""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import blockgraph as bg
from blockgraph.files import write
from blockgraph.library import shipped_folder
from runners.page import Page

BLOCKS = ("baseline", "qk_norm")
RUN = "runs/demo.yaml"
GO_ON = """\
blockgraph new my_block.yaml
blockgraph check my_block.yaml
blockgraph render my_block.yaml -o my_block.svg
blockgraph train specs/runs/demo.yaml set.block=./my_block.yaml --out runs/mine"""


def main() -> int:
    """Train, draw and write the page; says where it is."""
    parser = argparse.ArgumentParser("python -m runners.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder to write (default build/demo)")
    parser.add_argument("override", nargs="*", help="keys of the run, such as train.steps=50")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = {block: args.out / "runs" / block for block in BLOCKS}
    for block, run in runs.items():
        print(f"\n{block}: training, see {run}", flush=True)
        code = train(block, run, args.override)
        if code:
            return code
    path = page(runs, args.out)
    print(f"\nthe figures, curves and results are on one page: {path.resolve().as_uri()}")
    return 0


def train(block: str, run: Path, override: list[str]) -> int:
    """Train one block with the demo's run file; a run that has finished is left as it is."""
    command = [sys.executable, "-m", "runners.train", str(shipped_folder() / RUN), "--out", str(run)]
    return subprocess.run([*command, f"set.block={block}", *override], check=False).returncode


def page(runs: dict[str, Path], out: Path) -> Path:
    """The page with figures, their difference, loss curves and results."""
    from runners.curves import draw_losses

    base, changed = BLOCKS
    drawn = [(bg.render(block, out / f"{block}.svg"), bg.load(block).title) for block in BLOCKS]
    difference = bg.diff(base, changed)
    marked = bg.render(changed, out / f"{changed}-against-{base}.svg", base=base)
    curves = draw_losses(runs, out / "loss.svg")
    sheet = Page("blockgraph: two blocks of a paper, from one text each")
    sheet.text("Each block is one YAML file. The figures, the module that was trained and the counts come from it.")
    sheet.heading("The blocks")
    sheet.figures(drawn)
    sheet.heading(f"What {changed} changes")
    sheet.code(str(difference))
    sheet.figures([(marked, f"{changed} against {base}: what was added, removed and changed")])
    sheet.heading("Training")
    sheet.text(_told(runs[base]))
    sheet.figures([(curves, "Training loss (lines) and held-out loss (circles) against tokens.")])
    sheet.table(
        ("block", "parameters", "held-out loss (nats)", "perplexity", "tokens/s"), [_result(r) for r in runs.items()]
    )
    sheet.text("One seed and one learning rate: enough to see both train, not to rank them.")
    sheet.heading("Go on")
    sheet.code(GO_ON)
    return write(out / "index.html", str(sheet))


def _told(run: Path) -> str:
    status = json.loads((run / "status.json").read_text())
    last = _rows(run)[-1]
    return (
        f"State of the Union addresses, the last decade held out; {status['step']} steps, "
        f"{last['tokens'] / 1e6:.2f} million tokens each, bf16 with fp32 master weights."
    )


def _result(item: tuple[str, Path]) -> tuple[str, ...]:
    block, run = item
    rows = _rows(run)
    held_out = next(row["val_loss"] for row in reversed(rows) if row.get("val_loss") is not None)
    speed = sorted(row["tokens_per_s"] for row in rows)[len(rows) // 2]
    parameters = bg.cost(str(run / "model.yaml")).parameters
    return block, f"{parameters:,}", f"{held_out:.4f}", f"{math.exp(held_out):.2f}", f"{speed:,.0f} (median)"


def _rows(run: Path) -> list[dict[str, float]]:
    from runners.metrics import rows

    return rows(run / "metrics.jsonl")


if __name__ == "__main__":
    sys.exit(main())

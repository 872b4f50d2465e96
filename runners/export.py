"""`blockgraph export`: a run to one folder that others can load, with nothing in it that executes when read."""

import argparse
import sys
from pathlib import Path

from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import make_folder, save
from runners import runfile
from runners.outcome import BAD_INPUT
from runners.rundir import RUN, RunDir, warn

TEXTS = ("model.yaml", "model.py", "tokenizer.model")
DESCRIPTION = """Write the newest good checkpoint of a run as model.safetensors, with its spec, its module as Python,
its tokenizer and a README that says how to load them. The run may still be training. With --hf, write what
transformers loads instead; RUN may then also be a folder that `blockgraph import` or `blockgraph export` wrote."""
EXAMPLE = """example:
  blockgraph export runs/demo -o demo-model
  blockgraph export runs/mine --hf -o mine-hf
"""
README = """\
# {name}

Weights of the run `{name}` after step {step:,}, trained in {precision} with fp32 master weights.

| file | holds |
|---|---|
| `model.safetensors` | the weights, by the paths of the spec |
| `model.yaml` | the whole spec: every block, slot and dim resolved |
| `model.py` | the same model as Python that needs torch alone |
| `tokenizer.model` | the SentencePiece model |

With blockgraph, in this folder:

```python
import blockgraph, sentencepiece, torch
from safetensors.torch import load_model

model = blockgraph.compile("./model.yaml")
load_model(model, "model.safetensors")
model.compute_dtype = torch.{dtype}
tokens = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model").encode("a text")
logits = model(torch.tensor([tokens]))         # [batch, seq, vocab]
```

With torch and safetensors alone, and with ops of your own, `import model as module` and `model = module.build(0)` take
the place of `blockgraph.compile`. Nothing here is a pickle.
"""


def command(arguments: list[str]) -> int:
    """Write the newest checkpoint of a run as a folder for others; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.hf:
            from runners.hf.exporting import export_hf  # torch takes seconds; a mistake in usage is told before

            print(f"wrote {export_hf(options.run, options.output)}")
        else:
            print(f"wrote {export(options.run, options.output)}")
    except SpecError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    return 0


def export(run: Path, out: Path) -> Path:
    """Write the folder whole or not at all; raise `SpecError` when there is no good checkpoint or `out` is taken."""
    if not (run / RUN).is_file():
        raise _refuse(run, "there is no run here", "give the directory that `blockgraph train` wrote")
    return make_folder(out, lambda folder: _fill(folder, run))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph export",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of a run")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--hf", action="store_true", help="config.json and tensors as Hugging Face transformers has them"
    )
    return parser


def _fill(folder: Path, run: Path) -> None:
    # Only now, because it imports torch, which takes seconds: a mistake is told before.
    from safetensors.torch import save_file

    from runners.checkpoint import Checkpoints
    from runners.trainer import DTYPES

    config = runfile.load(run / RUN).config
    found = Checkpoints(RunDir(run).checkpoints, config.checkpoint.keep).peek(warn)
    if not found:
        raise _refuse(run, "the run has no good checkpoint yet", "train it for longer")
    save_file(dict(found.tensors("model")), folder / "model.safetensors", metadata={"format": "pt"})
    for name in TEXTS:
        save(folder / name, (run / name).read_bytes())
    precision = config.train.precision
    dtype = str(DTYPES[precision]).removeprefix("torch.")
    save(folder / "README.md", README.format(name=config.run, step=found.step, precision=precision, dtype=dtype))


def _refuse(path: Path, message: str, hint: str = "") -> SpecError:
    return SpecError([Problem(message, Place(str(path), 0), hint)])

"""`blockgraph import`: a Hugging Face model to a spec with its weights."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import blockgraph
from blockgraph.errors import Place, Problem, SpecError
from blockgraph.files import make_folder, save, write
from blockgraph.graph import Graph
from blockgraph.syntax import Scalar, read
from runners.hf.maps import Map, matching, read_map, shipped_maps
from runners.outcome import BAD_INPUT

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TOKENIZER = "config.json", "tokenizer.model"
SOURCE = "source"  # in the metadata of the weights: where they were trained
START = "start"  # likewise: the token that written texts begin behind, where the config names one
FIRST = "decoder_start_token_id"  # that token in a config
DESCRIPTION = """Read a model in the format of Hugging Face transformers: its config.json chooses the spec and the dims,
its safetensors give the weights. Nothing is downloaded, and nothing that is read is executed. Of a config alone, only
the spec is written."""
EXAMPLE = """example:
  blockgraph import hf downloads/model -o imported
  blockgraph import hf downloads/model/config.json -o imported.yaml
"""
README = """\
# {title}

Imported from {source}, as the spec `{spec}`: `model.yaml` is the whole spec, `model.py` the same as Python that needs
torch alone, `model.safetensors` the weights by the paths of the spec.

```python
import blockgraph
from safetensors.torch import load_model

model = blockgraph.compile("./model.yaml")
load_model(model, "model.safetensors")
```

`blockgraph export . --hf -o FOLDER` writes it back as transformers loads it.
"""


def command(arguments: list[str]) -> int:
    """Turn a Hugging Face model into a spec with its weights; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        print(import_hf(options.source, options.output, options.map))
    except SpecError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    return 0


def import_hf(source: Path, out: Path | None, own: Path | None = None) -> str:
    """Write the spec, and the weights where there are any; returns what to tell, or the spec where `out` is None.

    `own` is a map to use in place of the shipped ones. Raises `SpecError`.
    """
    folder = source if source.is_dir() else source.parent
    config = read(source / CONFIG if source.is_dir() else source)
    one, settings = matching([read_map(own)] if own else shipped_maps(), config)
    graph = blockgraph.load(one.spec, **settings)
    if out is None:
        return blockgraph.text(graph).rstrip()
    files = sorted(folder.glob("*.safetensors")) if source.is_dir() else []
    if not files and source.is_dir():
        told = "no *.safetensors are here; other formats are not read, because they can hold code"
        raise SpecError([Problem(told, Place(str(source), 0), f"give {source / CONFIG} for the spec alone")])
    if not files:
        return (
            f"wrote {write(out, blockgraph.text(graph))}: {one.spec}, {blockgraph.cost(graph).parameters:,} parameters"
        )
    first = config.items.get(FIRST)
    said = {SOURCE: "hf"} | ({START: first.raw} if isinstance(first, Scalar) and isinstance(first.value, int) else {})
    make_folder(out, lambda beside: _fill(beside, one, graph, files, said))
    return f"wrote {out}: {one.spec}, {blockgraph.cost(graph).parameters:,} parameters"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blockgraph import",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=["hf"], help="the format of the model")
    parser.add_argument("source", metavar="DIR_OR_CONFIG", type=Path, help="a folder with config.json, or such a file")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path,
        help="the folder to make, or the .yaml to write of a config; without it the spec is checked and printed",
    )  # fmt: skip
    parser.add_argument("--map", metavar="FILE.hf.yaml", type=Path, help="a map of your own, for a spec of your own")
    return parser


def _fill(folder: Path, one: Map, graph: Graph, files: list[Path], said: dict[str, str]) -> None:
    from safetensors.torch import save_file

    from blockgraph.lower import lower
    from runners.hf.weights import imported

    found = imported(one, graph, _tensors(files), Place(str(files[0].parent), 0))
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"} | said)
    if (files[0].parent / TOKENIZER).is_file():
        save(folder / TOKENIZER, (files[0].parent / TOKENIZER).read_bytes())
    title = graph.title or graph.name
    save(folder / "model.yaml", blockgraph.text(graph))
    save(folder / "model.py", lower(graph))
    save(folder / "README.md", README.format(title=title, source=files[0].parent.resolve().name, spec=one.spec))


def _tensors(files: list[Path]) -> Mapping[str, "Tensor"]:
    """All tensors of the files, read from the disk when they are used."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise SpecError([Problem(f"no safetensors file: {error}", Place(str(file), 0))]) from None
    return tensors

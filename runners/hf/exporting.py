"""A model of blockgraph's to a folder that Hugging Face transformers loads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blockgraph
from blockgraph.canonical import digest
from blockgraph.errors import Place, Problem, SpecError, near_miss
from blockgraph.files import make_folder, save
from blockgraph.graph import Graph
from blockgraph.library import shipped
from blockgraph.losses import without_losses
from runners import runfile
from runners.hf.maps import Map, config_of, shipped_maps
from runners.hf.weights import exported
from runners.rundir import RUN, RunDir, warn

if TYPE_CHECKING:
    from torch import Tensor

MODEL, WEIGHTS, TOKENIZER = "model.yaml", "model.safetensors", "tokenizer.model"


def export_hf(source: Path, out: Path) -> Path:
    """Write config.json and the tensors of a run's newest checkpoint, or of a folder with a spec and its weights.

    Raises `SpecError` when the model is not what the map of its spec describes, or `out` is taken.
    """
    if not (source / MODEL).is_file():
        raise _refuse(source, f"there is no {MODEL} here", "give a run, or what `blockgraph import` wrote")
    graph = blockgraph.load(source / MODEL)
    one, config = described(graph, source)
    return make_folder(out, lambda folder: _fill(folder, source, graph, one, config))


def described(graph: Graph, source: Path) -> tuple[Map, dict[str, Any]]:
    """The map that a graph agrees with, and its config.json; raises `SpecError` where it agrees with none."""
    maps = shipped_maps()
    named = [one for one in maps if one.spec == graph.name]
    if not named:
        names = [one.spec for one in maps]
        near = near_miss(graph.name, names) if graph.name not in shipped() else ""
        raise _refuse(source, f"no map is for the spec '{graph.name}'", near or f"known are {', '.join(names)}")
    for one in named:
        for case in one.variants():
            dims: dict[str, Any] = {
                dim: graph.dims.sizes[dim].known or 0 for dim in case.dims if dim in graph.dims.sizes
            }
            if _same(blockgraph.load(one.spec, **dims), graph):
                return one, config_of(one, case, dims)
    told = f"the model is not the shipped spec {graph.name}, so transformers would compute something else"
    raise _refuse(source, told, f"`blockgraph diff {graph.name} {source / MODEL}` says in what it differs")


def _same(one: Graph, other: Graph) -> bool:
    """Whether two models put out the same; what they add to the loss of a run is no matter of files."""
    return digest(without_losses(one)) == digest(without_losses(other))


def _fill(folder: Path, source: Path, graph: Graph, one: Map, config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = exported(one, graph, _weights(source))
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    save(folder / "config.json", json.dumps(config | {"dtype": dtype}, indent=2) + "\n")
    if (source / TOKENIZER).is_file():
        save(folder / TOKENIZER, (source / TOKENIZER).read_bytes())


def _weights(source: Path) -> dict[str, "Tensor"]:
    if (source / RUN).is_file():
        return _of_run(source)
    from safetensors.torch import load_file

    if not (source / WEIGHTS).is_file():
        raise _refuse(source, f"there is no {WEIGHTS} here", "give a run, or what `blockgraph import` wrote")
    return load_file(source / WEIGHTS)


def _of_run(run: Path) -> dict[str, "Tensor"]:
    from runners.checkpoint import Checkpoints

    keep = runfile.load(run / RUN).config.checkpoint.keep
    found = Checkpoints(RunDir(run).checkpoints, keep).peek(warn)
    if not found:
        raise _refuse(run, "the run has no good checkpoint yet", "train it for longer")
    return dict(found.tensors("model"))


def _refuse(path: Path, message: str, hint: str = "") -> SpecError:
    return SpecError([Problem(message, Place(str(path), 0), hint)])

"""A trained model in a folder: a run, what `blockgraph export` wrote, or what `blockgraph import` wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import blockgraph
from blockgraph.errors import SpecError
from blockgraph.graph import Graph
from blockgraph.model import Model, build
from blockgraph.op import Op
from runners import runfile, tokenizer
from runners.checkpoint import Checkpoints
from runners.compiling import keep_kernels
from runners.rundir import MODEL, RUN, RunDir, refuse, warn
from runners.tokenizer import Tokenizer

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.model", "config.json"
SOURCE, START = "source", "start"  # in the metadata of weights that were imported


@dataclass(frozen=True)
class Trained:
    """A graph with its weights and its tokenizer.

    `start` is the token that texts of the training began behind, where there was one; `precision` and `seq` are those
    of the run, where it is one.
    """

    path: Path
    graph: Graph
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer
    start: int | None
    precision: str = ""
    seq: int | None = None

    def model(self, graph: Graph, device: torch.device, dtype: torch.dtype, cached: bool) -> Model:
        """The module of the graph, which may be lowered in any way, with the weights, ready to write.

        Raises `SpecError` when the weights are those of another spec.
        """
        keep_kernels()
        with torch.device("meta"):
            model = build(graph, cached=cached)
        model.to_empty(device=device)
        try:
            model.load_state_dict(self._by_every_name(model))
        except RuntimeError as error:
            told = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise refuse(self.path, f"the weights are not those of {MODEL}: {told}") from None
        model.forget()
        model.compute_dtype = dtype
        if dtype != torch.float32:
            narrow(model, dtype)
        return model.eval().requires_grad_(False)

    def _by_every_name(self, model: Model) -> dict[str, Tensor]:
        """The tensors; what layers share is stored under one of its names, and stands under each of them here."""
        state = model.state_dict(keep_vars=True)
        stored = {id(value): self.tensors[name] for name, value in state.items() if name in self.tensors}
        shared = {name: stored[id(value)] for name, value in state.items() if id(value) in stored}
        return shared | dict(self.tensors)


def narrow(model: Model, dtype: torch.dtype) -> None:
    """Parameters that are only ever read in the compute dtype take it for good, so no step casts them; same results."""
    rounded, exact = set[Tensor](), set[Tensor]()
    for prefix, graph, node in model.graph.unfused().walk():
        read = {f"{node.home}.{param.name}": param.name for param in node.params}
        for port, ref in node.inputs.items():
            read |= {f"{graph.nodes[ref.owner].home}.{ref.port}": port} if ref.kind == "param" else {}
        for name, port in read.items():
            (rounded if port in node.op.rounds else exact).add(model.get_parameter(prefix + name))
    for tensor in rounded - exact:
        tensor.data = tensor.data.to(dtype)


def trained(path: Path, ops: Mapping[str, type[Op]]) -> Trained:
    """What stands in a folder; raises `SpecError` when something that it takes to write is missing."""
    if not (path / MODEL).is_file():
        raise _nothing(path)
    words = _tokenizer(path)
    graph = blockgraph.load(path / MODEL, ops=ops)
    if (path / RUN).is_file():
        return _of_run(path, graph, words)
    if not (path / WEIGHTS).is_file():
        raise refuse(path, f"there is no {WEIGHTS} here", "`blockgraph export RUN -o DIR` writes a folder that has it")
    try:
        with safe_open(path / WEIGHTS, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in sorted(file.keys())}
            said = file.metadata() or {}
    except SafetensorError as error:
        raise refuse(path / WEIGHTS, f"no safetensors file: {error}") from None
    start = words.bos if SOURCE in said else words.end
    return Trained(path, graph, found, words, int(said[START]) if said.get(START, "").isdecimal() else start)


def _of_run(path: Path, graph: Graph, words: Tokenizer) -> Trained:
    config = runfile.load(path / RUN).config
    found = Checkpoints(RunDir(path).checkpoints, config.checkpoint.keep).peek(warn)
    if not found:
        raise refuse(path, "the run has no good checkpoint yet", "train it for longer")
    tensors = dict(found.tensors("model"))
    return Trained(path, graph, tensors, words, words.end, config.train.precision, config.data.seq)


def _tokenizer(path: Path) -> Tokenizer:
    if not (path / TOKENIZER).is_file():
        told = f"there is no {TOKENIZER} here, so a prompt cannot be turned into tokens"
        raise refuse(path, told, "put the model's SentencePiece file there under this name")
    return tokenizer.load(path / TOKENIZER)


def _nothing(path: Path) -> SpecError:
    """An error that says what the folder is, if it can be told."""
    if (path / CONFIG).is_file():
        told = f"this is a model of transformers, with no {MODEL}"
        return refuse(path, told, f"`blockgraph import hf {path} -o DIR` makes a folder to sample from")
    hint = "give a directory that `blockgraph train`, `export` or `import` wrote"
    return refuse(path, "there is neither a run nor a model here" if path.is_dir() else "there is no such folder", hint)

"""The model that a run file asks for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import blockgraph
from blockgraph.errors import Problem, SpecError
from blockgraph.graph import Graph
from blockgraph.library import located, names_path
from blockgraph.op import Op
from blockgraph.probes import chosen
from blockgraph.recompute import refuse_unknown
from blockgraph.types import TOKENS, Type
from runners import tokenizer
from runners.runfile import RunFile

DOCUMENTS = "documents"  # input of a model that is given, for each token, the number of the document it stands in


def graph_of(run: RunFile, ops: Mapping[str, type[Op]], vocab: int | None = None) -> Graph:
    """The checked graph of `model` with the slots and dims of `set`, and with `vocab` where that gives none.

    Paths in the run file start from its folder, those on the command line from the working directory.
    """
    settings: dict[str, Any] = {name: _located(run, f"set.{name}", value) for name, value in run.config.set.items()}
    places = {name: run.place(f"set.{name}") for name in settings}
    if vocab:
        settings, places = {"vocab": vocab} | settings, {"vocab": run.place("tokenizer.vocab")} | places
    model = str(_located(run, "model", run.config.model))
    try:
        graph = blockgraph.load(model, ops=ops, places=places, **settings)
    except SpecError as error:
        raise SpecError(_at_model(problem, model, run) for problem in error.problems) from None
    if graph.kind != "model":
        raise run.refuse("model", f"'{model}' is a {graph.kind}, not a model", "give it to a slot: set.block")
    _refuse_other_ends(run, model, graph)
    if run.config.data.packing == "within" and DOCUMENTS not in graph.inputs:
        told = f"attention stays within documents where a model has an input '{DOCUMENTS}', and '{model}' has none"
        raise run.refuse("data.packing", told, "`model: packed` has one; wire it to every causal_mask")
    refuse_unknown(graph, run.config.train.recompute, run.place("train.checkpointing"))
    return graph


def _refuse_other_ends(run: RunFile, model: str, graph: Graph) -> None:
    """Refuse a model that does not turn the tokens of one sequence into logits for each of them."""
    reads = {name: kind for name, kind in graph.inputs.items() if name != DOCUMENTS}
    gives = [graph.type_of(ref) for ref in graph.outputs.values()]
    one = [(kind.kind, str(kind)) for kind in reads.values()] == [("int", f"[batch, {TOKENS}]")]
    each = len(gives) == 1 and gives[0] is not None and len(gives[0].sizes) == 3 and gives[0].sizes[1] == TOKENS
    if not (one and each):
        told = f"'{model}' maps {_listed(reads)} to {_listed(dict(zip(graph.outputs, gives, strict=True)))}"
        wanted = f"a run trains models of tokens [batch, {TOKENS}] to logits [batch, {TOKENS}, vocab]"
        raise run.refuse(
            "model", f"{told}; {wanted}", f'blockgraph.compile("{model}") gives a module to train in Python'
        )


def _listed(kinds: Mapping[str, Type | None]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in kinds.items())


def vocab_of(run: RunFile) -> int:
    """Pieces of the run's tokenizer, which is not trained for this."""
    config = run.config.tokenizer
    return config.vocab or tokenizer.load(run.base / str(config.path)).vocab


def series_of(run: RunFile, graph: Graph) -> list[str]:
    """Names of the series that `log.probes` asks for; raises `SpecError` at each word that stands for none."""
    words = run.config.log.probes
    return chosen(graph, words, [run.place(f"log.probes.{index}") for index in range(len(words))])


def _located(run: RunFile, key: str, value: int | str) -> int | str:
    in_file = run.place(key).line > 0
    return located(value, run.base) if in_file and isinstance(value, str) and names_path(value) else value


def _at_model(problem: Problem, model: str, run: RunFile) -> Problem:
    """A spec that is not found is the fault of the key that names it."""
    lost = not problem.place.line and Path(problem.place.file) == Path(model)
    return replace(problem, place=run.place("model")) if lost else problem

"""Parameters of the real sizes against the published ones, and small models that run."""

from pathlib import Path

import pytest
import torch
from published import PUBLISHED, ROUNDED, UNSOURCED
from torch import Tensor

import blockgraph as bg
from blockgraph.library import shipped
from blockgraph.syntax import plain, read
from blockgraph.types import Type
from runners.hf.exporting import described
from runners.hf.maps import shipped_maps

ZOO = [name for name, path in shipped().items() if path.parent.name == "zoo"]
SIZES = [(name, size) for name in ZOO for size in plain(read(shipped()[name]))["sizes"]]
MAPPED = [(name, size) for name, size in SIZES if size != "tiny" and name in {one.spec for one in shipped_maps()}]


def count(spec: str, size: str) -> int:
    return bg.cost(bg.load(spec, size=size)).parameters


def exact(spec: str, size: str) -> str:
    """What the gallery says of a total that was found."""
    total, source = PUBLISHED[spec, size]
    return f"{total:,}, {source}"


def rounded(spec: str, size: str) -> str:
    """What it says of one that is rounded."""
    billions, _, source = ROUNDED[spec, size]
    return f"{billions:g}B, {source}"


def unsourced(spec: str, size: str) -> str:
    """What it says where none was found."""
    return f"no total: {UNSOURCED[spec, size]}"


@pytest.mark.counts.with_args(exact)
@pytest.mark.parametrize(("spec", "size"), PUBLISHED)
def test_parameters_are_as_many_as_published(spec: str, size: str) -> None:
    assert count(spec, size) == PUBLISHED[spec, size][0]


@pytest.mark.counts.with_args(rounded)
@pytest.mark.parametrize(("spec", "size"), ROUNDED)
def test_parameters_round_to_the_published_figure(spec: str, size: str) -> None:
    billions, within, _ = ROUNDED[spec, size]
    assert count(spec, size) / 1e9 == pytest.approx(billions, abs=within)


@pytest.mark.counts.with_args(unsourced)
@pytest.mark.parametrize(("spec", "size"), UNSOURCED)
def test_a_size_without_a_published_total_says_why(spec: str, size: str) -> None:
    assert UNSOURCED[spec, size]


def test_every_real_size_of_the_zoo_is_sourced_or_said_not_to_be() -> None:
    tables = [*PUBLISHED, *ROUNDED, *UNSOURCED]
    assert len({*tables}) == len(tables)
    assert {one for one in tables if one[0] in ZOO} == {one for one in SIZES if one[1] != "tiny"}


@pytest.mark.parametrize(("spec", "size"), MAPPED)
def test_parameters_are_as_many_as_in_transformers(spec: str, size: str) -> None:
    import transformers

    _, config = described(bg.load(spec, size=size), Path())
    with torch.device("meta"):
        kind = getattr(transformers, config["architectures"][0])
        model = kind(transformers.AutoConfig.for_model(**config))
    theirs = sum(value.numel() for value in model.parameters())
    if config.get("tie_word_embeddings") is False and model.lm_head.weight is model.get_input_embeddings().weight:
        theirs += model.lm_head.weight.numel()  # transformers 5.23 ties the head of T5 whatever its config says
    assert count(spec, size) == theirs


@pytest.mark.parametrize(("size", "embeddings", "others"), [("15b", 3.1e9, 12.5e9), ("340b", 9.4e9, 331.6e9)])
def test_nemotron_has_the_parameters_of_its_papers(size: str, embeddings: float, others: float) -> None:
    # arXiv 2402.16819, section 2, and arXiv 2406.11704, Table 1, in billions to one place.
    rows = {row.node.path: row.parameters for row in bg.cost(bg.load("nemotron", size=size)).rows if not row.depth}
    tables = rows["embed"] + rows["head"]
    assert tables == pytest.approx(embeddings, abs=0.06e9)
    assert sum(rows.values()) - tables == pytest.approx(others, abs=0.06e9)


def test_gptj_has_the_parameters_of_its_readme() -> None:
    # mesh-transformer-jax counts what all eight shards hold eight times: norms, the biases of fc2, and one of the
    # embedding, which its weights for transformers have added to the rows.
    norms, biases, embedding = 2 * (28 + 1), 28, 1
    assert count("gptj", "6b") + 4096 * (7 * (norms + biases) + 8 * embedding) == 6_053_381_344


@pytest.mark.parametrize(("spec", "size"), SIZES)
def test_every_size_is_a_model(spec: str, size: str) -> None:
    assert bg.load(spec, size=size).kind == "model"


def given(kind: Type) -> Tensor:
    """A value for an input."""
    sizes = [size.at(**dict.fromkeys(size.unbound, 8)) for size in kind.sizes]
    return torch.randint(2, sizes) if kind.kind == "int" else torch.randn(sizes)


@pytest.mark.parametrize("spec", ZOO)
def test_the_tiny_size_learns(spec: str) -> None:
    model = bg.compile(spec, size="tiny")
    inputs = [given(kind) for kind in model.graph.inputs.values()]
    logits = model(*inputs)
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []

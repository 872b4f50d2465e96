"""Parameters of the real sizes against the published ones, and small models that run."""

import pytest
import torch

import blockgraph as bg
from blockgraph.library import shipped
from blockgraph.syntax import plain, read

# By spec and size: totals of the published checkpoints as they are commonly given. Those with a source in a comment
# were looked up there; for the others the published sizes of the model are what the total follows from.
PUBLISHED = {
    ("llama3", "8b"): 8_030_261_248,
    ("llama3", "70b"): 70_553_706_496,
    ("llama3", "3.1_405b"): 405_853_388_800,
    ("qwen3", "8b"): 8_190_735_360,
    ("qwen3", "14b"): 14_768_307_200,
    ("qwen3", "32b"): 32_762_123_264,
    ("qwen3_tied", "0.6b"): 596_049_920,  # the files hold the head once more: 751,632,384
    ("qwen3_tied", "4b"): 4_022_468_096,
    ("gpt2", "small"): 124_439_808,  # "124M" in the README of openai/gpt-2
    ("gpt2", "medium"): 354_823_168,
    ("gpt2", "large"): 774_030_080,
    ("gpt2", "xl"): 1_557_611_200,
    ("post_ln", "gpt"): 116_534_784,
    ("gpt_neox", "20b"): 20_554_567_680,  # its model card
    ("gpt_neox", "pythia_160m"): 162_322_944,  # the model cards of Pythia, "Total Params"
    ("gpt_neox", "pythia_410m"): 405_334_016,
    ("gpt_neox", "pythia_1b"): 1_011_781_632,
    ("gpt_neox", "pythia_6.9b"): 6_857_302_016,
    ("gpt_neox", "pythia_12b"): 11_846_072_320,
    ("gptj", "6b"): 6_050_882_784,
    ("cohere", "35b"): 34_980_831_232,
    ("olmo2", "1b"): 1_484_916_736,
    ("olmo2", "7b"): 7_298_617_344,
    ("olmo2", "13b"): 13_716_198_400,
    ("olmo2", "32b"): 32_234_279_936,
    ("gemma2", "2b"): 2_614_341_888,
    ("gemma2", "9b"): 9_241_705_984,
    ("gemma2", "27b"): 27_227_128_320,
    ("gemma3", "270m"): 268_098_176,
    ("gemma3", "1b"): 999_885_952,
    ("stablelm", "3b"): 2_795_443_200,  # its model card
}
ZOO = [name for name, path in shipped().items() if path.parent.name == "zoo"]


SIZES = [(name, size) for name in ZOO for size in plain(read(shipped()[name]))["sizes"]]


@pytest.mark.parametrize(("spec", "size"), PUBLISHED)
def test_parameters_are_as_many_as_published(spec: str, size: str) -> None:
    assert bg.cost(bg.load(spec, size=size)).parameters == PUBLISHED[spec, size]


@pytest.mark.parametrize(("size", "embeddings", "others"), [("15b", 3.1e9, 12.5e9), ("340b", 9.4e9, 331.6e9)])
def test_nemotron_has_the_parameters_of_its_papers(size: str, embeddings: float, others: float) -> None:
    # arXiv 2402.16819, section 2, and arXiv 2406.11704, Table 1, in billions to one place.
    rows = {row.node.path: row.parameters for row in bg.cost(bg.load("nemotron", size=size)).rows if not row.depth}
    tables = rows["embed"] + rows["head"]
    assert tables == pytest.approx(embeddings, abs=0.06e9)
    assert sum(rows.values()) - tables == pytest.approx(others, abs=0.06e9)


@pytest.mark.parametrize(("spec", "size"), SIZES)
def test_every_size_is_a_model(spec: str, size: str) -> None:
    assert bg.load(spec, size=size).kind == "model"


@pytest.mark.parametrize("spec", ZOO)
def test_the_tiny_size_learns(spec: str) -> None:
    model = bg.compile(spec, size="tiny")
    inputs = [torch.randint(2, (2, 8)) for _ in model.graph.inputs]
    logits = model(*inputs)
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []

"""Models that read a second sequence: what is causal in them, and what a block may call its tokens."""

from pathlib import Path

import pytest
import torch

import blockgraph as bg
from blockgraph.errors import SpecError
from blockgraph.kernels.positions import buckets_of

BOTH_WAYS = """
  both_ways:
    block: both_ways
    dims: {src: ~}
    inputs: {x: [batch, src, d_model]}
    nodes:
      bmm1:    {op: matmul, in: [x, x], transpose: b}
      softmax: {op: softmax}
      bmm2:    {op: matmul, in: [softmax, x]}
    outputs: {x: bmm2}
"""
MODEL = """\
model: two
dims: {vocab: 31, d_model: 8, src: ~}
inputs: {source: [batch, src], tokens: [batch, seq]}
nodes:
  embed:  {op: embedding, in: %s, rows: vocab, width: d_model}
  layers: {op: stack, of: both_ways, repeat: 2}
  other:  {op: embedding, in: %s, rows: vocab, width: d_model}
  bmm1:   {op: matmul, in: [%s, %s], transpose: b}
  bmm2:   {op: matmul, in: [bmm1, %s]}
outputs: {logits: bmm2}
blocks:"""


def load(folder: Path, text: str) -> bg.Graph:
    (folder / "two.yaml").write_text(text)
    return bg.load(folder / "two.yaml")


def test_a_stack_over_the_source_sees_all_of_it_and_the_targets_stay_causal(tmp_path: Path) -> None:
    graph = load(tmp_path, MODEL % ("source", "tokens", "other", "layers", "layers") + BOTH_WAYS)
    assert graph.causal
    model = bg.compile(graph)
    source, tokens = torch.zeros(1, 3, dtype=torch.long), torch.arange(5)[None]
    one = model(source, tokens)
    other = model(source, torch.cat((tokens[:, :3], tokens[:, 3:] + 7), dim=1))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(model(source + torch.tensor([0, 0, 1]), tokens)[:, 0], one[:, 0])


def test_tokens_under_another_name_are_no_way_round_causality(tmp_path: Path) -> None:
    text = MODEL % ("tokens", "source", "layers", "other", "other") + BOTH_WAYS
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.message == (
        "layers (stack): layer 0 (both_ways) reads 'x' as [batch, src, d_model], found [batch, seq, d_model]; of what "
        "tokens see, only an axis called seq tells, not src (d_model = 8)"
    )
    assert load(tmp_path, f"causal: false\n{text}").causal is False


@pytest.mark.parametrize("name", ["t5", "t5_gated"])
def test_no_target_token_changes_the_past_and_every_source_token_counts(name: str) -> None:
    model = bg.compile(name, size="tiny")
    source, tokens = torch.randint(256, (1, 7)), torch.randint(256, (1, 6))
    with torch.no_grad():
        logits = model(source, tokens)
        for token in range(6):
            changed = tokens.clone()
            changed[0, token] = (changed[0, token] + 1) % 256
            assert torch.equal(model(source, changed)[:, :token], logits[:, :token])
        for token in range(7):
            changed = source.clone()
            changed[0, token] = (changed[0, token] + 1) % 256
            assert not torch.equal(model(changed, tokens)[:, 0], logits[:, 0])


def test_buckets_hold_one_distance_each_and_then_ever_more() -> None:
    found = buckets_of(torch.arange(300), 32, 128)
    assert found[:16].tolist() == list(range(16))
    assert (found.diff() >= 0).all()
    assert (found[128:] == 31).all()
    lengths = torch.bincount(found)[16:31]
    assert (lengths.diff() >= -1).all(), lengths  # whole numbers of a geometric series
    assert lengths[-1] > 4 * lengths[0]

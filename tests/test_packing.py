"""Attention inside documents: what a packed sequence gives is what each document gives alone."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from train_case import series, state, train, write_case

import blockgraph as bg
from runners import speed

SIZES = {"n_layers": 2, "d_model": 32, "n_heads": 4, "vocab": 61}
CUTS = (0, 1, 6, 7, 15, 24)
MODEL = "model=packed", "set={n_layers: 2, d_model: 16, n_heads: 2}"


def proven() -> tuple[str, str]:
    return "packed", "its documents, each alone"


def proven_whole() -> tuple[str, str]:
    return "packed", "the spec `gpt`, which is proven itself"


@pytest.mark.proves(proven, {"logits": 1e-5})
def test_a_packed_sequence_gives_the_losses_of_its_documents_alone() -> None:
    model = bg.compile("packed", **SIZES)
    tokens = torch.randint(61, (2, CUTS[-1] + 1), generator=torch.Generator().manual_seed(1))
    documents = torch.zeros(2, CUTS[-1], dtype=torch.int64)
    for cut in CUTS[1:-1]:
        documents[:, cut:] += 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that attention is not uniform
    packed = model(tokens[:, :-1], documents)
    parts = [model(tokens[:, a:b], torch.zeros(2, b - a, dtype=torch.int64)) for a, b in pairwise(CUTS)]
    torch.testing.assert_close(packed, torch.cat(parts, dim=1), rtol=0, atol=1e-5)
    losses = [F.cross_entropy(logits.mT, tokens[:, 1:]) for logits in (packed, torch.cat(parts, dim=1))]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    across = model(tokens[:, :-1], torch.zeros_like(documents))
    assert (across - packed)[:, CUTS[1] :].abs().max() > 1e-3


@pytest.mark.proves(proven_whole, {"logits of one document": 0})
def test_with_one_document_the_model_is_gpt() -> None:
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(1))
    packed, gpt = bg.compile("packed", **SIZES), bg.compile("gpt", **SIZES)
    assert torch.equal(packed(tokens, torch.zeros_like(tokens)), gpt(tokens))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "PEAK_SECONDS", 0.0)
    run = write_case(tmp_path)
    run.write_text(run.read_text().replace("{path: words.txt}", "{path: words.txt, separator: ' '}"))
    return run


def test_a_run_gives_the_numbers_of_the_documents_where_it_is_asked_to(tiny: Path) -> None:
    for packing in ("across", "within"):
        assert train(tiny, tiny.parent / packing, *MODEL, f"data.packing={packing}") == 0
    assert train(tiny, tiny.parent / "gpt", "set.block=baseline") == 0
    torch.testing.assert_close(state(tiny.parent / "across"), state(tiny.parent / "gpt"), rtol=0, atol=0)
    within, across = (series(tiny.parent / name)[-1]["val_loss"] for name in ("within", "across"))
    assert within != across


def test_a_model_without_documents_refuses_to_stay_within_them(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(tiny.read_text().replace("seq: 16}", "seq: 16, packing: within}"))
    assert train(tiny, tiny.parent / "out") == 1
    place = next(
        (n, line.index("within") + 1) for n, line in enumerate(tiny.read_text().splitlines(), 1) if "within" in line
    )
    told = "attention stays within documents where a model has an input 'documents', and 'gpt' has none"
    hint = "`model: packed` has one; wire it to every causal_mask"
    assert capfd.readouterr().err.splitlines()[0] == f"{tiny}:{place[0]}:{place[1]}: error: {told}; {hint}"


def test_no_fused_core_forgets_the_documents() -> None:
    with pytest.raises(bg.SpecError, match=r"attn\.mask reads documents too"):
        bg.compile("packed", lowering="sdpa", **SIZES)


def test_documents_of_another_shape_are_refused(tmp_path: Path) -> None:
    text = (Path(bg.__file__).parent.parent / "specs" / "models" / "packed.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(text.replace("in: [bmm1, documents]", "in: [bmm1, x]"))
    with pytest.raises(bg.SpecError) as refused:
        bg.load(tmp_path / "bad.yaml")
    told = "attn.mask (causal_mask): expects documents [batch, seq] for scores [batch, ..., seq, seq], found"
    assert f"bad.yaml:39:11: error: {told} [batch, seq, d_model]" in str(refused.value)

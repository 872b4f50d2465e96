"""`blockgraph sample`: text as it comes, the same for a seed, and mistakes told in a line."""

import io
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from train_case import train, trained_in, write_case

import blockgraph as bg
from blockgraph.library import shipped
from blockgraph.ops import OPS
from runners import export, sample, tokenizer
from runners.telling import Teller
from runners.trained import narrow, trained
from runners.writing import Choice, Writer, written

ROOT = Path(__file__).parents[1]
PROMPT = "a bc 中😀"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    with trained_in(folder):
        assert train(write_case(folder), folder / "run") == 0
    return folder / "run"


def model_at(folder, run, spec, **dims):
    """A folder like an exported one, of any spec, with the tokenizer of the run."""
    folder.mkdir()
    shutil.copy(run / "tokenizer.model", folder)
    graph = bg.load(spec, vocab=300, **dims)
    (folder / "model.yaml").write_text(bg.text(graph))
    save_model(bg.compile(graph), folder / "model.safetensors")
    return folder


def said(capsys, *arguments):
    assert sample.command([*map(str, arguments)]) == 0
    return capsys.readouterr()


def test_a_run_and_its_export_write_the_same_text_with_and_without_the_cache(run, capsys, tmp_path):
    assert export.command([str(run), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    told = [
        said(capsys, place, "--prompt", PROMPT, "--tokens", 30, *options)
        for place in (run, tmp_path / "out")
        for options in ((), ("--no-cache",))
    ]
    assert len({text.out for text in told}) == 1
    assert told[0].out.startswith(PROMPT)
    assert "30 written" in told[0].err
    assert "tokens/s; cache: " in told[0].err
    assert "cache" not in told[1].err


def test_a_seed_gives_a_text_and_another_seed_another(run, capsys):
    texts = [said(capsys, run, "--tokens", 20, "--seed", seed).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_text_does_not_depend_on_how_many_are_asked_for(run, capsys):
    first = said(capsys, run, "--tokens", 20).out
    several = said(capsys, run, "--tokens", 20, "--samples", 3).out
    parts = several.split("--- ")
    assert [part.partition("\n")[0] for part in parts] == ["", "1 of 3", "2 of 3", "3 of 3"]
    assert parts[1].partition("\n")[2] == first
    assert len(set(part.partition("\n")[2] for part in parts)) == 4


def test_the_prompt_comes_from_stdin_where_it_is_a_dash(run, capsys, monkeypatch):
    expected = said(capsys, run, "--prompt", PROMPT, "--tokens", 5, "--temperature", 0).out
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    assert said(capsys, run, "--prompt", "-", "--tokens", 5, "--temperature", 0).out == expected


def test_characters_are_whole_however_their_bytes_come(run, capsys):
    words = tokenizer.load(run / "tokenizer.model")
    text = "a\u00e9 \u4e2d\U0001f600\u2581\n\tb"
    teller = Teller(1, words.bytes_of, "")
    seen = []
    for token in words.encode(text):
        teller.tell([token])
        seen.append(capsys.readouterr().out)
    teller.tell([words.encode("\u4e2d")[0]])
    teller.close()
    assert "".join(seen) == text == words.decode(words.encode(text))
    assert len(seen) > len(text)
    assert capsys.readouterr().out == "\ufffd\n"


def test_texts_begin_behind_the_token_of_their_training(run, tmp_path):
    folder = model_at(tmp_path / "gpt", run, "gpt", n_layers=1, d_model=8, n_heads=2)
    words = tokenizer.load(folder / "tokenizer.model")
    assert words.bos != words.eos
    assert trained(run, OPS).start == trained(folder, OPS).start == words.end == words.eos
    weights = bg.compile(str(folder / "model.yaml")).state_dict()
    save_file(weights, folder / "model.safetensors", metadata={"source": "hf"})
    assert trained(folder, OPS).start == words.bos


def test_a_terminal_is_given_nothing_to_act_on(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    teller = Teller(1, lambda token: bytes([token]), "")
    teller.tell([27])
    teller.tell([9])
    assert capsys.readouterr().out == "\\x1b\t"


def test_a_document_that_ends_is_not_gone_on_with(run):
    found = trained(run, OPS)
    model = found.model(found.graph, torch.device("cpu"), torch.float32, cached=True)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[found.tokenizer.end] = 0.1
    model.norm.weight.data[:] = 0.0
    writer = Writer(model, 40, found.tokenizer.vocab, found.tokenizer.end, cached=True)
    steps = list(written(writer, torch.full((3, 4), 50), 36, Choice(), seed=0))
    assert len(steps) <= 36
    ended = False
    for tokens in zip(*steps, strict=True):
        open_ = [token is not None for token in tokens]
        assert open_ == sorted(open_, reverse=True)
        ended = ended or not all(open_)


def test_rows_end_one_by_one(monkeypatch):
    monkeypatch.setattr(Choice, "of", lambda self, logits, draws: next(given))
    given = iter(torch.tensor([[5, 9], [9, 6], [7, 7]]))
    writer = Writer(bg.compile("gpt", n_layers=1, d_model=8, n_heads=1, vocab=10), 9, 10, end=9, cached=False)
    assert list(written(writer, torch.zeros(2, 1, dtype=torch.int64), 8, Choice(), 0)) == [[5, None], [None, None]]


def test_choices_keep_to_what_is_asked_for():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0]).log_softmax(0).repeat(5000, 1)
    draws = [torch.Generator().manual_seed(seed) for seed in range(5000)]
    share = {token: logits[0, token].exp().item() for token in range(5)}

    def shares(choice, known):
        counts = Counter(choice.of(logits, draws).tolist())
        total = sum(known.values())
        assert counts.keys() <= known.keys()
        for token, expected in known.items():
            assert counts[token] / 5000 == pytest.approx(expected / total, abs=0.025)

    shares(Choice(), share)
    shares(Choice(top_k=2), {token: share[token] for token in (0, 1)})
    shares(Choice(top_k=99), share)
    shares(Choice(top_p=0.7), {token: share[token] for token in (0, 1)})
    shares(Choice(top_p=1e-9), {0: 1.0})
    shares(Choice(temperature=0.5), {token: value**2 for token, value in share.items()})
    shares(Choice(temperature=0), {0: 1.0})
    shares(Choice(temperature=1e-8, top_k=3, top_p=0.9), {0: 1.0})


def test_weights_kept_in_bf16_change_no_bit(tmp_path, run):
    for number, name in enumerate(("gpt", "gpt2", "ngpt", "packed")):
        sizes = {"size": "tiny"} if "sizes:" in shipped()[name].read_text() else {}
        model = bg.compile(bg.load(name, **sizes)).eval()
        model.compute_dtype = torch.bfloat16
        inputs = [torch.arange(20).reshape(2, 10) for _ in model.graph.inputs]
        expected = model(*inputs)
        narrow(model, torch.bfloat16)
        assert torch.equal(model(*inputs), expected), number
        kinds = {parameter.dtype for parameter in model.parameters()}
        assert torch.bfloat16 in kinds
    own = bg.compile("gpt", block="sigma_reparam", n_layers=1, d_model=16, n_heads=2, vocab=20)
    narrow(own, torch.bfloat16)
    assert own.layers[0].attn.qkv.weight.dtype == own.norm.weight.dtype == torch.float32


def test_a_model_that_reads_two_texts_is_given_the_other_one(run, capsys, tmp_path):
    folder = model_at(tmp_path / "t5", run, "t5", size="tiny")
    arguments = (folder, "--tokens", 12, "--seed", 3)
    told = said(capsys, *arguments, "--source", PROMPT)
    assert told.out == said(capsys, *arguments, "--source", PROMPT, "--no-cache").out
    assert told.out != said(capsys, *arguments, "--source", "cab").out
    assert (
        told.out == said(capsys, *arguments, "--source", PROMPT, "--samples", 2).out.split("---")[1].partition("\n")[2]
    )
    assert sample.command([str(folder)]) == 1
    assert (
        capsys.readouterr().err
        == f"{folder}: error: the model reads another text, 'source'; give it by --source TEXT\n"
    )
    assert sample.command([str(run), "--source", "a"]) == 1
    assert capsys.readouterr().err == "--source: error: the model reads no other text than the prompt\n"
    with pytest.raises(SystemExit) as ended:
        sample.command([str(folder), "--prompt", "-", "--source", "-"])
    assert ended.value.code == 2


def test_written_text_begins_behind_the_token_that_was_imported_with_the_weights(run, tmp_path):
    folder = model_at(tmp_path / "t5", run, "t5", size="tiny")
    model = bg.compile(str(folder / "model.yaml"))
    save_model(model, folder / "model.safetensors", metadata={"source": "hf", "start": "7"})
    assert trained(folder, OPS).start == 7


def test_what_is_kept_is_told_and_so_is_why_nothing_is(run, capsys, tmp_path):
    told = said(capsys, run, "--explain").out.splitlines()
    assert told[0] == "cache: 256 bytes a token in fp32"
    kept = "qk_norm.attn.rope_k [batch, n_heads, seq, d_model/n_heads] in 2 layers, read by attn.bmm1.b"
    assert " ".join(told[1].split()) == f"128 {kept}"
    folder = model_at(tmp_path / "sigmoid", run, "sigmoid_attention", size="tiny", n_layers=1)
    why = "attn.sigmoid (sigmoid): shift = -log(seq) is another number for each length"
    lines = said(capsys, folder, "--explain").out.splitlines()
    assert lines[0] == "no cache:"
    assert why in lines[1]
    written = said(capsys, folder, "--tokens", 4)
    assert written.err.startswith("no cache: ")
    assert why in written.err
    assert "4 written" in written.err


def test_a_table_of_positions_is_never_read_behind_its_end(run, capsys, tmp_path):
    folder = model_at(tmp_path / "gpt2", run, "gpt2", size="tiny", max_seq=12)
    assert "10 written" in said(capsys, folder, "--prompt", "ab", "--tokens", 10).err
    assert sample.command([str(folder), "--prompt", "ab", "--tokens", "11"]) == 1
    told = "positions (learned_positions) takes 12 tokens, and 3 of the prompt with 11 more need 13"
    assert capsys.readouterr().err == f"{folder}: error: {told}; --tokens 10 is the most\n"
    assert sample.command([str(folder), "--prompt", "ab" * 20]) == 1
    assert "shorten the prompt by 29 tokens" in capsys.readouterr().err


def test_a_run_goes_beyond_the_length_of_its_training_with_a_note(run, capsys):
    told = said(capsys, run, "--prompt", "abc", "--tokens", 30).err
    assert told.startswith("note: 33 tokens are more than the 16 that the run was trained on at once")
    assert "note" not in said(capsys, run, "--prompt", "a", "--tokens", 5).err


def test_mistakes_are_one_line(run, capsys, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    (tmp_path / "bare").mkdir()
    shutil.copy(run / "model.yaml", tmp_path / "bare")
    block = model_at(tmp_path / "block", run, "gpt", n_layers=1, d_model=8, n_heads=2)
    (block / "model.yaml").write_text(bg.text(bg.load("baseline", d_model=8, n_heads=2, n_layers=1)))
    other = model_at(tmp_path / "other", run, "gpt", n_layers=1, d_model=8, n_heads=2)
    (other / "model.yaml").write_text(bg.text(bg.load("gpt", n_layers=1, d_model=16, n_heads=2, vocab=300)))
    cases = {
        tmp_path / "none": "there is no such folder; give a directory that `blockgraph train`",
        tmp_path: "there is neither a run nor a model here; give a directory",
        tmp_path / "hf": f"this is a model of transformers, with no model.yaml; `blockgraph import hf {tmp_path}/hf",
        tmp_path / "bare": "there is no tokenizer.model here, so a prompt cannot be turned into tokens; put",
        block: "the block reads x and gives x; text is written by a model that reads `tokens`, and at most",
        other: "the weights are not those of model.yaml: size mismatch for embed.weight",
    }
    for place, told in cases.items():
        assert sample.command([str(place)]) == 1
        assert capsys.readouterr().err.startswith(f"{place}: error: {told}")
    shutil.copy(run / "tokenizer.model", tmp_path / "bare")
    assert sample.command([str(tmp_path / "bare")]) == 1
    assert "there is no model.safetensors here" in capsys.readouterr().err
    assert sample.command([str(run), "--device", "abacus"]) == 1
    assert capsys.readouterr().err == "--device: error: no device is called 'abacus' here; cpu is always there\n"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--temperature", "-1"], "a number of at least 0, found '-1'"),
        (["--top-p", "1.5"], "a number of at least 0 and at most 1, found '1.5'"),
        (["--top-k", "0"], "a whole number of at least 1, found '0'"),
        (["--tokens", "many"], "a whole number of at least 1, found 'many'"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_read(wrong, told, capsys):
    with pytest.raises(SystemExit) as ended:
        sample.command(["nowhere", *wrong])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_diverged_model_is_told_and_leaves_a_whole_line(run, capsys, tmp_path):
    folder = model_at(tmp_path / "broken", run, "gpt", n_layers=1, d_model=8, n_heads=2)
    graph = bg.load(folder / "model.yaml")
    save_file(
        {name: value * math.nan for name, value in bg.compile(graph).state_dict().items()}, folder / "model.safetensors"
    )
    assert sample.command([str(folder), "--prompt", "ab"]) == 1
    told = capsys.readouterr()
    assert told.out == "ab\n"
    assert told.err == f"{folder}: error: the model's logits are not finite; has the run diverged?\n"


def test_an_interrupt_ends_the_line_and_no_more(run):
    arguments = [str(run), "--tokens", "100000", "--temperature", "0"]
    program = f"from runners.sample import command; raise SystemExit(command({arguments}))"
    started = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdout is not None
    assert started.stdout.read(1)
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert out.endswith(b"\n")
    assert err.splitlines()[-1] == b"interrupted"
    assert b"Traceback" not in err

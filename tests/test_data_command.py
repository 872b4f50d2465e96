"""What `blockgraph data` prints, writes and refuses."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from data_case import ROOT, texts
from hub_case import install

from runners.cache import MODEL, verify
from runners.corpus import DataConfig, Source
from runners.data_command import command
from runners.shards import prepare
from runners.tokenizer import load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a text to tokenise and a cache of its own."""
    monkeypatch.setenv("BLOCKGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshr", k=draw.randint(2, 6))) for _ in range(60)]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=40)), "id": number}) for number in range(200)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    code = command(list(arguments))
    return code, *capsys.readouterr()


def rows(text: str) -> dict[str, list[str]]:
    return {line[:16].strip(): line[16:].split() for line in text.splitlines()}


def test_the_table_tells_what_the_shards_hold(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = told(capsys, "--path", "texts.jsonl", "--vocab", "300", "--held-out", "0.1", "--out", "shards")
    assert (code, err) == (0, "")
    dataset = prepare(DataConfig(train=[Source(path="shards")], seq=8), load(Path("shards") / MODEL), folder, folder)
    texts = [json.loads(line)["text"] for line in Path("texts.jsonl").read_text().splitlines()]
    table = rows(out)
    assert list(table) == ["", "documents", "bytes of text", "tokens", "bytes per token", "tokenizer", "shards"]
    trained, held = (int(word) for word in table["documents"])
    assert (trained + held, held) == (200, pytest.approx(20, abs=10))
    assert sum(int(word.replace(",", "")) for word in table["bytes of text"]) == sum(map(len, texts))
    assert table["tokens"][0] == f"{dataset.tokens:,}"
    assert table["bytes per token"][1] == f"{dataset.bytes_per_token:.3f}"
    assert table["tokenizer"] == ["300", "pieces;", "text", "comes", "back", "exactly"]
    assert table["shards"] == ["shards"]


def test_the_folder_holds_the_shards_the_tokenizer_and_the_manifest(folder: Path) -> None:
    command(["--path", "texts.jsonl", "--vocab", "300", "--out", "a/b"])
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["b"]
    assert sorted(path.name for path in (folder / "a/b").iterdir()) == [
        "manifest.json",
        "tokenizer.model",
        "train-0-00000.bin",
        "validation-0-00000.bin",
    ]


def test_without_a_folder_the_cache_keeps_the_shards(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    _, out, _ = told(capsys, "--path", "texts.jsonl", "--vocab", "300")
    (shards,) = rows(out)["shards"]
    assert Path(shards).parent == folder / "cache" / "shards"
    assert told(capsys, "--verify", shards) == (0, out, "")


def test_a_ready_tokenizer_is_used_as_it_is(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    command(["--path", "texts.jsonl", "--vocab", "300", "--out", "one"])
    command(["--path", "texts.jsonl", "--tokenizer", f"one/{MODEL}", "--held-out", "0", "--out", "two"])
    assert (folder / "two" / MODEL).read_bytes() == (folder / "one" / MODEL).read_bytes()
    table = rows(capsys.readouterr().out.partition("one\n")[2])
    assert (table["documents"], table["bytes per token"][1]) == (["200", "0"], "-")


def test_the_same_again_is_quick_and_another_text_is_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    asked = ["--path", "texts.jsonl", "--vocab", "300", "--out", "shards"]
    first = told(capsys, *asked)
    written = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    assert told(capsys, *asked) == first
    refused = "shards:1:1: error: holds something other than whole shards of this text; name a new folder\n"
    assert told(capsys, *asked, "--held-out", "0.5") == (1, "", refused)
    assert {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()} == written


def test_an_empty_folder_is_filled_and_a_file_is_not(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "file").write_text("mine")
    asked = ["--path", "texts.jsonl", "--vocab", "300", "--out"]
    assert command([*asked, "empty"]) == 0
    assert command([*asked, "file"]) == 1
    assert (folder / "file").read_text() == "mine"


def test_verifying_names_the_damaged_file(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    command(["--path", "texts.jsonl", "--vocab", "300", "--out", "shards"])
    capsys.readouterr()
    path = folder / "shards" / "validation-0-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    message = "shards/validation-0-00000.bin:1:1: error: damaged: its bytes are not those its manifest lists\n"
    assert told(capsys, "--verify", "shards") == (1, "", message)


def test_verifying_notices_another_tokenizer(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    for vocab in ("300", "320"):
        command(["--path", "texts.jsonl", "--vocab", vocab, "--out", vocab])
    capsys.readouterr()
    (folder / "300" / MODEL).write_bytes((folder / "320" / MODEL).read_bytes())
    message = "300/tokenizer.model:1:1: error: damaged: its pieces are not those the manifest lists\n"
    assert told(capsys, "--verify", "300") == (1, "", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "none.txt"], "none.txt:1:1: error: no such file"),
        (["--path", "*.txt"], "*.txt:1:1: error: no file matches"),
        (["--path", "texts.jsonl", "--field", "body"], "texts.jsonl:1:1: error: no field 'body'; there are text, id"),
        (["--path", "texts.jsonl", "--field", "id"], "texts.jsonl:1:1: error: field 'id' is not text"),
        (["--path", "texts.jsonl", "--tokenizer", "texts.jsonl"], "texts.jsonl:1:1: error: not a SentencePiece model"),
        (["--verify", "none"], "none/manifest.json:1:1: error: cannot be read: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], message: str
) -> None:
    before = sorted(folder.iterdir())
    assert told(capsys, *arguments, *([] if "--verify" in arguments else ["--out", "out"])) == (1, "", f"{message}\n")
    assert [path for path in sorted(folder.iterdir()) if path.name != "cache"] == before


def test_token_shards_are_not_tokenised_again(capsys: pytest.CaptureFixture[str]) -> None:
    command(["--path", "texts.jsonl", "--vocab", "300", "--out", "shards"])
    capsys.readouterr()
    message = "shards:1:1: error: holds token shards already; see --verify\n"
    assert told(capsys, "--path", "shards", "--out", "more") == (1, "", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --corpus --path --hub --verify is required"),
        (["--corpus", "sotu", "--path", "a"], "argument --path: not allowed with argument --corpus"),
        (["--corpus", "sotu", "--vocab", "12"], "argument --vocab: expected a whole number of at least 260, found 12"),
        (["--hub", "a/b"], "--hub and --tokens go together: a data set of the hub, and how many tokens to take of it"),
        (["--corpus", "sotu", "--tokens", "5"], "--hub and --tokens go together"),
        (["--corpus", "sotu", "--split", "dev"], "--name, --split and --revision are of a data set given by --hub"),
        (["--hub", "a/b", "--tokens", "1e9"], "argument --tokens: expected a whole number of at least 1, found 1e9"),
        (["--corpus", "sotu", "--held-out", "1"], "--held-out: expected a number from 0 to less than 1, found 1"),
        (["--corpus", "sotu", "--held-out", "x"], "--held-out: expected a number from 0 to less than 1, found x"),
        (["--path", "a", "--separator", ""], "argument --separator: expected at least one character"),
        (["--path", "a", "--tokenizer", "b", "--vocab", "300"], "--tokenizer loads a ready model, --vocab and --model"),
    ],
)
def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_separator_may_be_written_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("\n\n".join(Path("texts.jsonl").read_text().splitlines()))
    _, out, _ = told(capsys, "--path", "a.txt", "--separator", r"\n\n", "--vocab", "300", "--held-out", "0")
    assert rows(out)["documents"] == ["200", "0"]


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(["--help"])
    assert caught.value.code == 0
    assert "blockgraph data --corpus sotu --out shards" in capsys.readouterr().out


def test_an_interrupt_leaves_nothing(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runners.shards._part", interrupted)
    asked = ["--path", "texts.jsonl", "--vocab", "300", "--out", "shards"]
    assert told(capsys, *asked) == (130, "", "stopped; nothing half-written is left\n")
    assert sorted(path.name for path in folder.iterdir()) == ["cache", "texts.jsonl"]


def test_the_command_never_imports_torch(folder: Path) -> None:
    code = "import sys; from runners.data_command import command; command(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--path", "texts.jsonl", "--vocab", "300"],
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("False", "")


def test_a_data_set_of_the_hub_is_put_where_a_run_finds_it(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = install(monkeypatch, texts(200))
    asked = ["--hub", "a/b", "--name", "en", "--tokens", "10_000", "--vocab", "300"]
    code, out, err = told(capsys, *asked)
    assert (code, err) == (0, "")
    (shards,) = rows(out)["shards"]
    source = Source(hub="a/b", name="en", tokens=10_000)
    tokenizer = load(Path(shards) / MODEL)
    dataset = prepare(DataConfig(train=[source], seq=8), tokenizer, folder / "cache", folder)
    assert rows(out)["tokens"][0] == f"{dataset.tokens:,}"
    assert hub.asked == [("a/b", "en", "train", None)] * 2
    assert told(capsys, *asked, "--out", "own")[0] == 0
    assert verify(Path("own")).train == verify(Path(shards)).train
    assert told(capsys, "--verify", "own")[0] == 0


def test_an_interrupted_data_set_goes_on_with_the_same_command(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int) -> None:
        if number == 40:
            raise KeyboardInterrupt

    monkeypatch.setattr("runners.streaming.PART_CHARACTERS", 1000)
    hub = install(monkeypatch, texts(200))
    hub.on_row = interrupt
    command(["--path", "texts.jsonl", "--vocab", "300", "--out", "shards"])
    capsys.readouterr()
    asked = ["--hub", "a/b", "--tokens", "10_000", "--tokenizer", f"shards/{MODEL}", "--out", "own"]
    assert told(capsys, *asked) == (130, "", "stopped; the same command goes on from the parts that are done\n")
    hub.on_row = hub.read.append
    assert told(capsys, *asked)[0] == 0
    assert min(hub.read) > 30
    assert sorted(path.name for path in folder.iterdir() if "own" in path.name) == ["own"]

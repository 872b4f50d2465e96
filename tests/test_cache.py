"""Laws of the cache: a folder is whole or absent, and damage is named."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from data_case import ROOT, SEQ, data_of, decoded, opened

from blockgraph.errors import SpecError
from runners import cache
from runners.cache import MANIFEST, verify
from runners.corpus import DataConfig, Source, Texts
from runners.shards import prepare, write


def damage_size(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def damage_bit(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


@pytest.mark.parametrize(
    ("damage", "deep", "message"),
    [
        (damage_size, False, "damaged: it has {less} bytes, its manifest lists {size}"),
        (Path.unlink, False, "damaged: it has 0 bytes, its manifest lists {size}"),
        (damage_bit, True, "damaged: its bytes are not those its manifest lists"),
    ],
)
def test_a_damaged_shard_is_named_where_given_and_made_again_in_the_cache(
    tmp_path: Path, damage: object, deep: bool, message: str
) -> None:
    data = data_of(tmp_path)
    dataset, tokenizer = opened(tmp_path, data)
    before = dataset.digest, decoded(dataset.train, tokenizer)
    write(Texts(data, tmp_path), tokenizer, tmp_path / "out")
    size = (tmp_path / "out" / "train-0-00000.bin").stat().st_size
    for shard in tmp_path.rglob("train-0-00000.bin"):
        damage(shard)  # type: ignore[operator]
    given = DataConfig(train=[Source(path="out")], seq=SEQ)
    with pytest.raises(SpecError) as caught:
        prepare(given, tokenizer, tmp_path / "cache", tmp_path, deep)
    told = message.format(size=size, less=size - 2)
    assert str(caught.value) == f"{tmp_path}/out/train-0-00000.bin:1:1: error: {told}"
    after = prepare(data, tokenizer, tmp_path / "cache", tmp_path, deep)
    assert (after.digest, decoded(after.train, tokenizer)) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', ""])
def test_what_is_not_a_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(SpecError) as caught:
        verify(tmp_path)
    assert str(caught.value) == f"{tmp_path}/{MANIFEST}:1:1: error: not a manifest of token shards in format 1"


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    _, tokenizer = opened(tmp_path, data)
    path = write(Texts(data, tmp_path), tokenizer, tmp_path / "out") / MANIFEST
    path.write_text(path.read_text().replace("train-0-00000.bin", "../train.bin"))
    with pytest.raises(SpecError, match="not a manifest"):
        verify(tmp_path / "out")


SLOW = """
import sys, time
from pathlib import Path
from runners import cache, shards, tokenizer
from runners.corpus import Texts
from runners.tokenizer import Tokenizer, load
encode_all = Tokenizer.encode_all
Tokenizer.encode_all = lambda self, texts: time.sleep(0.02) or encode_all(self, texts)
tokenizer.BATCH_CHARACTERS = 1
folder = Path(sys.argv[1])
data = shards.DataConfig.model_validate({"train": [shards.Source(path="texts.jsonl")]})
shards.write(Texts(data, folder), load(folder / "some.model"), folder / "out")
"""


def test_a_kill_leaves_nothing_half_written_and_the_next_start_succeeds(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    _, tokenizer = opened(tmp_path, data)
    (tmp_path / "some.model").write_bytes(tokenizer.model_bytes)
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], env=os.environ | {"PYTHONPATH": ROOT})
    while not (tmp_path / ".out.new" / "train-0-00000.bin").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    manifest = verify(write(Texts(data, tmp_path), tokenizer, tmp_path / "out"), deep=True)
    assert manifest.train[0].documents + manifest.validation[0].documents == 200
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_error_while_a_folder_is_made_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "kept"

    def fail(fresh: Path) -> None:
        (fresh / "part").write_text("half")
        raise OSError(28, "No space left on device")

    cache.made(target, Path.exists, lambda fresh: None)
    with pytest.raises(SpecError) as caught:
        cache.made(target, lambda path: False, fail)
    assert str(caught.value) == f"{target}:1:1: error: cannot be written: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError) as caught:
        cache.made(tmp_path / "file" / "kept", Path.exists, lambda fresh: None)
    assert "kept:1:1: error: cannot be written: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_that_ask_at_once_one_makes_and_all_get_it(tmp_path: Path) -> None:
    makers: list[str] = []

    def make(fresh: Path) -> None:
        makers.append(threading.current_thread().name)
        time.sleep(0.05)
        (fresh / "done").write_text("")

    def ask() -> None:
        assert (cache.made(tmp_path / "kept", lambda path: (path / "done").exists(), make) / "done").exists()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKGRAPH_CACHE", "a")
    monkeypatch.setenv("XDG_CACHE_HOME", "b")
    monkeypatch.setenv("HOME", "c")
    assert cache.folder() == Path("a")
    monkeypatch.delenv("BLOCKGRAPH_CACHE")
    assert cache.folder() == Path("b/blockgraph")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path("c/.cache/blockgraph")

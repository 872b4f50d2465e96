"""`make demo` in small: both blocks trained, and one page that shows everything."""

import subprocess
import sys
import xml.etree.ElementTree as ET

SMALL = [
    *("train.steps=4", "train.batch=2", "train.micro_batch=2", "schedule.warmup=1", "set.n_layers=1", "set.d_model=32"),
    *("tokenizer.vocab=512", "data.seq=32", "log.evaluate_tokens=512"),
]


def test_the_demo_writes_one_self_contained_page(tmp_path):
    demo = [sys.executable, "-m", "runners.demo", "--out", str(tmp_path / "demo"), *SMALL]
    ended = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "demo/index.html").read_text()
    assert str(tmp_path / "demo/index.html") in ended.stdout
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "http-equiv" in page
    assert all(word in page for word in ("Multihead attention", "perplexity", "qk_norm", "tokens/s"))
    for name in ("baseline", "qk_norm", "qk_norm-against-baseline", "loss"):
        ET.parse(tmp_path / f"demo/{name}.svg")
    again = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr

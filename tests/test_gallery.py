"""The gallery is what its one command makes of the specs, and every shipped spec has a proof."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_gallery_is_up_to_date_and_every_spec_is_proven():
    done = subprocess.run(
        [sys.executable, "tools/gallery.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr

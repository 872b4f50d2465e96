"""What tests say of specs, proofs and published totals: read from the tests that pytest would run."""

import contextlib
import inspect
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("mark.proves(", "mark.counts.")
NOT_RUN = ("skip", "skipif", "xfail", "slow", "gpu")


@dataclass(frozen=True)
class Proof:
    """One quantity of a spec that a test compares with an implementation of another hand."""

    spec: str
    oracle: str
    what: str
    bound: float
    test: str

    @property
    def told(self) -> str:
        """The quantity with its bound."""
        return f"{self.what} within {self.bound:.0e}".replace("e-0", "e-") if self.bound else f"{self.what} bitwise"


@dataclass(frozen=True)
class Said:
    """All that the tests say: their proofs, and by spec and size the total that is published."""

    proofs: list[Proof]
    totals: dict[tuple[str, str], str]


def collected() -> Said:
    """Everything that tests marked `proves` or `counts` say; tests that are skipped anywhere say nothing."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(path) for path in paths if any(mark in path.read_text() for mark in MARKS)]
    found = _Found()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files], [found])
    if code:
        raise SystemExit(f"pytest cannot collect the proofs:\n{said.getvalue()}")
    return Said(list(dict.fromkeys(found.proofs)), found.totals)


class _Found:
    """Takes what is said from the items that are left once pytest has deselected what it does not run."""

    def __init__(self) -> None:
        self.proofs: list[Proof] = []
        self.totals: dict[tuple[str, str], str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if isinstance(item, pytest.Function) and not any(item.get_closest_marker(name) for name in NOT_RUN):
                params = item.callspec.params if hasattr(item, "callspec") else {}
                self.proofs += _of(item, params)
                for mark in item.iter_markers("counts"):
                    self.totals[params["spec"], params["size"]] = mark.args[0](params["spec"], params["size"])


def _of(item: pytest.Function, params: dict[str, Any]) -> Iterable[Proof]:
    path = Path(item.path).relative_to(ROOT).as_posix()
    for mark in item.iter_markers("proves"):
        named, bounds = mark.args
        spec, oracle = named(**{name: params[name] for name in inspect.signature(named).parameters})
        for what, bound in bounds.items():
            yield Proof(spec, oracle, what, bound, f"{path}::{item.originalname}")

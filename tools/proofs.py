"""Which test proves which spec, against what and how closely: read from the tests that pytest would run."""

import contextlib
import inspect
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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


def collected() -> list[Proof]:
    """Everything that tests marked `proves` say; tests that are skipped anywhere prove nothing."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.proves(" in path.read_text()]
    found = _Found()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files], [found])
    if code:
        raise SystemExit(f"pytest cannot collect the proofs:\n{said.getvalue()}")
    return list(dict.fromkeys(found.proofs))


class _Found:
    """Takes the proofs from the items that are left once pytest has deselected what it does not run."""

    def __init__(self) -> None:
        self.proofs: list[Proof] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if isinstance(item, pytest.Function) and not any(item.get_closest_marker(name) for name in NOT_RUN):
                self.proofs += _of(item)


def _of(item: pytest.Function) -> Iterable[Proof]:
    path = Path(item.path).relative_to(ROOT).as_posix()
    for mark in item.iter_markers("proves"):
        named, bounds = mark.args
        params = item.callspec.params if hasattr(item, "callspec") else {}
        spec, oracle = named(**{name: params[name] for name in inspect.signature(named).parameters})
        for what, bound in bounds.items():
            yield Proof(spec, oracle, what, bound, f"{path}::{item.originalname}")

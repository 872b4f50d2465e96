"""C++ text to a library that is built once, or to nothing where it cannot be."""

import inspect
import os
import shutil
import sys
import warnings
from functools import cache
from typing import Any


def has_compiler() -> bool:
    """Whether torch finds the C++ compiler that it would call."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is not None


@cache
def cpp_library(code: str) -> Any:
    """The code, built by what torch.compile builds with and kept where that keeps its own; without a compiler None."""
    if not has_compiler():
        return None
    try:
        with warnings.catch_warnings():  # torch's own, on the first import of its compiler
            warnings.simplefilter("ignore")
            from torch._inductor.codecache import CppCodeCache
        # torch would try its own flags for vectors in other processes, for a second; `-march=native`, which it gives
        # anyway, is enough for ours.
        known = inspect.signature(CppCodeCache.load_async).parameters
        return CppCodeCache.load(code, **({"needs_vec_isa": False} if "needs_vec_isa" in known else {}))
    except Exception:  # private to torch, so anything may change in it; without it there is Python for the same
        return None

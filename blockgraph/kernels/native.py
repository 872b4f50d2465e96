"""The blocks of `blockwise` for bf16 on CPUs, in C++ that is built once."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blockgraph.kernels.block_code import BLOCK_CODE
from blockgraph.kernels.cpp import cpp_library, has_compiler

_NATIVE_FROM = 128  # tokens; building the code takes seconds once, which shorter sequences hardly earn back
NATIVE_BLOCK = 64  # rows and columns of a block; in larger ones more is hidden

_BLOCK_SIZES = ("batch", "heads", "tokens", "block", "features", "values", "window")
_BLOCK_NUMBERS = ("scale", "cap", "zeta", "gamma")
_BLOCK_TENSORS = ("q", "k", "v", "out", "inner", "grad", "dq", "dk", "dv")


class _View(ctypes.Structure):
    """As in the code."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "head", "token")))


class _BlockCall(ctypes.Structure):
    """As in the code."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _BLOCK_SIZES),
        *((name, ctypes.c_float) for name in _BLOCK_NUMBERS),
        *((name, _View) for name in _BLOCK_TENSORS),
        ("lse", ctypes.c_void_p),
        ("largest", ctypes.c_void_p),
    )


class BlockRule(NamedTuple):
    """How products become weights (scale, cap, zeta, gamma), and who sees whom."""

    numbers: Sequence[float]
    capped: bool
    clipped: bool
    window: int | None


def native_forward(q: Tensor, k: Tensor, v: Tensor, results: Sequence[Tensor], rule: BlockRule) -> None:
    """Fill in output, logs of normalisers, inner output and the largest product of each block of rows."""
    out, lse, inner, largest = results
    _call_blocks("forward", {"q": q, "k": k, "v": v, "out": out, "inner": inner}, (lse, largest), rule)


def native_backward(given: Sequence[Tensor], results: Sequence[Tensor], rule: BlockRule) -> None:
    """From the output's gradient, q, k, v, logs and inner output fill in the gradients of q, k and v."""
    grad, q, k, v, lse, inner = given
    dq, dk, dv = results
    tensors = {"q": q, "k": k, "v": v, "inner": inner, "grad": grad, "dq": dq, "dk": dk, "dv": dv}
    _call_blocks("backward", tensors, (lse.contiguous(),), rule)


def native_rows(q: Tensor, k: Tensor, rule: BlockRule, queries: int, one_hot: float) -> Tensor:
    """Records [4, 4] of the last queries: saturation, entropy, rows with a weight above `one_hot`, clipped weights."""
    records = torch.empty(4, 4)
    more = (ctypes.c_int64(queries), ctypes.c_float(one_hot), ctypes.c_void_p(records.data_ptr()))
    _call_blocks("last_rows", {"q": q, "k": k}, (), rule, more)
    return records


def is_native(q: Tensor, v: Tensor) -> bool:
    """Whether the code serves these: bf16 on a CPU that it is for, an even count of features, enough tokens."""
    fits = q.is_cpu and q.dtype == v.dtype == torch.bfloat16 and q.shape[-1] % 2 == 0 and v.shape[-1] % 2 == 0
    return fits and q.shape[2] >= _NATIVE_FROM and _block_library() is not None


def can_be_native() -> bool:
    """Whether there is a C++ compiler, and a processor with AVX-512."""
    return has_compiler() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def is_built() -> bool:
    """Whether the code is there; it is built if need be."""
    return _block_library() is not None


@cache
def _block_library() -> Any:
    """The code, built, where it can be; otherwise None."""
    library = cpp_library(BLOCK_CODE) if can_be_native() else None
    if library is None:
        return None
    for function in (library.forward, library.backward, library.last_rows, library.works):
        function.restype = ctypes.c_bool
    return library if library.works() else None


def _call_blocks(
    name: str, tensors: dict[str, Tensor], plain: Sequence[Tensor], rule: BlockRule, more: Sequence[Any] = ()
) -> None:
    held = {key: x if x.stride(-1) == 1 else x.contiguous() for key, x in tensors.items()}
    views = (_view(held[key]) if key in held else _View() for key in _BLOCK_TENSORS)
    (batch, heads, tokens, features), values = tensors["q"].shape, tensors.get("v", tensors["q"]).shape[-1]
    sizes = batch, heads, tokens, NATIVE_BLOCK, features, values, rule.window or 0
    call = _BlockCall(*sizes, *rule.numbers, *views, *(x.data_ptr() for x in plain))
    kinds = ctypes.c_bool(rule.capped), ctypes.c_bool(rule.clipped)
    done = getattr(_block_library(), name)(ctypes.byref(call), *kinds, *more)
    assert done, "it was tried when it was built"


def _view(x: Tensor) -> _View:
    return _View(x.data_ptr(), *x.stride()[:3])

"""Means of squared gradients over second moments: one pass over memory in C++ for fp32 on CPUs, elsewhere torch's."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blockgraph.kernels.cpp import cpp_library

PIECE = 2**17  # numbers that a thread of torch's works on at once; the three arrays of that length stay in its cache
LEAST = 2**16  # numbers of all tensors together; below it torch's own functions are quick, and nothing has to be built
RATIO_CODE = """
#pragma GCC optimize("tree-loop-vectorize", "no-trapping-math")  // torch turns these off
#include <algorithm>
#include <cstdint>
#include <vector>

constexpr int64_t PIECE = 1 << 15;  // numbers that a thread takes at once; no sum follows from the count of threads
constexpr int64_t RUN = 1024;       // numbers that are summed in fp32, before their sum is added in fp64

struct Piece { int64_t tensor, first; double sum; };

float run(const float* grad, const float* moment, int64_t size, float floor, float share) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) {
    const float squared = grad[i] * grad[i], now = moment[i] + share * (squared - moment[i]);
    sum += squared / std::max(now, floor);
  }
  return sum;
}

extern "C" void sums(int64_t count, const float** grads, const float** moments, const int64_t* sizes,
                     const float* floors, float share, double* out) {
  std::vector<Piece> pieces;
  for (int64_t t = 0; t < count; ++t)
    for (int64_t first = 0; first < sizes[t]; first += PIECE) pieces.push_back({t, first, 0});
  const int64_t all = pieces.size();
#pragma omp parallel for schedule(static) if (all > 1)
  for (int64_t p = 0; p < all; ++p) {
    auto& [tensor, first, sum] = pieces[p];
    const int64_t end = std::min(sizes[tensor], first + PIECE);
    for (int64_t i = first; i < end; i += RUN)
      sum += run(grads[tensor] + i, moments[tensor] + i, std::min(RUN, end - i), floors[tensor], share);
  }
  std::fill(out, out + count, 0.0);
  for (const Piece& piece : pieces) out[piece.tensor] += piece.sum;
}
"""


class Ratio(NamedTuple):
    """A gradient, the second moment before it, and the floor of their ratio's denominator; `numel` counts the whole."""

    grad: Tensor
    moment: Tensor
    floor: Tensor
    numel: int


def means(ratios: Sequence[Ratio], beta2: float) -> Tensor:
    """For each tensor what this process has of the mean of g^2 / max(v, floor), v the second moment with g in it."""
    return torch.stack([_sum(ratio, beta2) / ratio.numel for ratio in ratios])


def _sum(ratio: Ratio, beta2: float) -> Tensor:
    # Operations on whole tensors would send every intermediate through memory; compiled code has none.
    pieces = ratio.grad.is_cpu and not torch.compiler.is_compiling()
    size = PIECE * torch.get_num_threads() if pieces else max(1, ratio.grad.numel())
    total = torch.zeros((), dtype=ratio.grad.dtype, device=ratio.grad.device)
    for g, old in zip(torch.split(ratio.grad.flatten(), size), torch.split(ratio.moment.flatten(), size), strict=True):
        squared = g * g
        total += squared.div(torch.lerp(old, squared, 1 - beta2).clamp_min_(ratio.floor)).sum()
    return total


def is_native(ratios: Sequence[Ratio]) -> bool:
    """Whether `native_means` takes these: fp32 on a CPU, without gaps, enough of them; and the code could be built."""
    tensors = [x for ratio in ratios for x in (ratio.grad, ratio.moment)]
    fits = all(x.is_cpu and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)
    return fits and sum(x.numel() for x in tensors) >= LEAST and cpp_library(RATIO_CODE) is not None


def native_means(ratios: Sequence[Ratio], beta2: float) -> Tensor:
    """The same in fp64, from sums that are exact to a few roundings of fp32."""
    grads, moments, floors, numels = zip(*ratios, strict=True)
    bounds, sums = torch.stack(floors).float(), torch.empty(len(ratios), dtype=torch.float64)
    sizes = (ctypes.c_int64 * len(ratios))(*(grad.numel() for grad in grads))
    arrays = (_pointers(grads), _pointers(moments), sizes, ctypes.c_void_p(bounds.data_ptr()))
    share, out = ctypes.c_float(1 - beta2), ctypes.c_void_p(sums.data_ptr())
    cpp_library(RATIO_CODE).sums(ctypes.c_int64(len(ratios)), *arrays, share, out)
    return sums / torch.tensor(numels, dtype=torch.float64)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))

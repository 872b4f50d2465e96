"""Records of bf16 and fp32 on CPUs in one pass over memory, in C++. Axes: T queries, S keys."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from blockgraph.kernels.cpp import cpp_library

# What a tensor comes to follows from no count of threads: pieces have one size, and are added in their order.
_RECORD_CODE = """
#pragma GCC optimize("tree-loop-vectorize", "no-trapping-math", "fp-contract=fast")  // torch turns these off
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

constexpr int64_t PIECE = 1 << 15;  // numbers that a thread takes at once
constexpr int64_t RUN = 2048;       // numbers that are summed in fp32, before their sum is added in fp64
constexpr float LEAST = 1e-15f, MOST = 1e15f;  // between these, fp32 holds the squares and their sum
constexpr uint32_t SIGN = 0x80000000u, INFINITE = 0x7f800000u;

struct Part { double sum = 0, squares = 0; uint32_t largest = 0; };

inline uint32_t bits(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline float of_bits(uint32_t b) { float x; std::memcpy(&x, &b, 4); return x; }
inline float number(float x) { return x; }
inline float number(uint16_t x) { return of_bits(static_cast<uint32_t>(x) << 16); }

// Bits of absolute values are ordered like these, and what is no number comes last.
template <class Sum, class Raw> Part part(const Raw* x, int64_t size) {
  Sum sum = 0, squares = 0;
  uint32_t largest = 0;
#pragma omp simd reduction(+ : sum, squares) reduction(max : largest)
  for (int64_t i = 0; i < size; ++i) {
    const float value = number(x[i]);
    const Sum wide = value;
    sum += wide, squares += wide * wide, largest = std::max(largest, bits(value) & ~SIGN);
  }
  return {static_cast<double>(sum), static_cast<double>(squares), largest};
}

void add(Part& to, const Part& more) {
  to.sum += more.sum, to.squares += more.squares, to.largest = std::max(to.largest, more.largest);
}

template <class Raw> Part run(const Raw* x, int64_t size) {
  const Part found = part<float>(x, size);
  const float largest = of_bits(found.largest);
  return largest == 0 || (largest > LEAST && largest < MOST) ? found : part<double>(x, size);
}

template <class Raw> void moments(const Raw* x, int64_t size, float* record) {
  std::vector<Part> parts((size + PIECE - 1) / PIECE);
  const int64_t count = parts.size();
#pragma omp parallel for schedule(static) if (count > 1)
  for (int64_t p = 0; p < count; ++p)
    for (int64_t i = p * PIECE; i < std::min(size, (p + 1) * PIECE); i += RUN)
      add(parts[p], run(x + i, std::min(RUN, size - i)));
  Part all;
  for (const Part& p : parts) add(all, p);
  record[0] = all.sum, record[1] = std::sqrt(all.squares), record[2] = of_bits(all.largest), record[3] = size;
}

// The largest number so far; bits of numbers are made to be ordered as these are, and what is no number wins.
struct Peak {
  int32_t most = static_cast<int32_t>(~INFINITE);  // of minus infinity
  uint32_t absolute = 0;

  template <class Raw> void add(const Raw* x, int64_t size) {
    constexpr int64_t LANES = 32;
    const int64_t whole = size < LANES ? size : size / LANES * LANES;
    some(x, whole);
    if (whole < size) some(x + size - LANES, LANES);  // some of them again, rather than the rest one by one
  }
  template <class Raw> void some(const Raw* x, int64_t size) {
    int32_t m = most;
    uint32_t n = absolute;
#pragma omp simd reduction(max : m, n)
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t b = bits(number(x[i])), a = b & ~SIGN;
      m = std::max(m, static_cast<int32_t>(b & SIGN ? ~a : a)), n = std::max(n, a);
    }
    most = m, absolute = n;
  }
  float value() const { return of_bits(absolute > INFINITE ? absolute : most < 0 ? SIGN | ~most : most); }
};

template <class Raw> float largest(const Raw* x, int64_t size) {
  Peak peak;
  peak.add(x, size);
  return peak.value();
}

// ln(x) of a normal number, to two roundings: the polynomial of logf in Cephes.
inline float logarithm(float x) {
  const uint32_t b = bits(x) - 0x3f3504f3u;  // mantissas from sqrt(1/2) on
  const float power = static_cast<int32_t>(b) >> 23, m = of_bits((b & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
  float y = ((7.0376836292e-2f * m - 1.1514610310e-1f) * m + 1.1676998740e-1f) * m - 1.2420140846e-1f;
  y = (((y * m + 1.4249322787e-1f) * m - 1.6668057665e-1f) * m + 2.0000714765e-1f) * m - 2.4999993993e-1f;
  y = (y * m + 3.3333331174e-1f) * m * m * m;
  return m + (y - 0.5f * m * m) + power * 0.69314718f;
}

template <class Raw> float entropy(const Raw* x, int64_t size, float least) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum -= number(x[i]) * logarithm(std::max(number(x[i]), least));
  return sum;
}

// What each row comes to.
template <class Row> std::vector<float> of_rows(int64_t rows, const Row& row) {
  std::vector<float> found(rows);
#pragma omp parallel for schedule(static) if (rows > 256)
  for (int64_t r = 0; r < rows; ++r) found[r] = row(r);
  return found;
}

template <class Use> void typed(const void* x, bool half, const Use& use) {
  if (half) use(static_cast<const uint16_t*>(x));
  else use(static_cast<const float*>(x));
}

extern "C" void record_moments(const void* x, bool half, int64_t size, float* record) {
  typed(x, half, [&](auto* raw) { moments(raw, size, record); });
}

// A key counts for a query if it is not after it; the queries are the last ones.
extern "C" void record_largest(const void* x, bool half, int64_t rows, int64_t keys, int64_t queries, float* record) {
  typed(x, half, [&](auto* raw) {
    const int64_t some = std::max<int64_t>(1, PIECE / keys), parts = (rows + some - 1) / some;
    const auto found = of_rows(parts, [&](int64_t p) {
      Peak peak;
      for (int64_t r = p * some; r < std::min(rows, (p + 1) * some); ++r)
        peak.add(raw + r * keys, std::max<int64_t>(0, queries ? keys - queries + 1 + r % queries : keys));
      return peak.value();
    });
    record[0] = record[1] = 0, record[2] = largest(found.data(), parts), record[3] = 1;
  });
}

extern "C" void record_entropy(const void* x, bool half, int64_t rows, int64_t keys, float least, float* record) {
  typed(x, half, [&](auto* raw) {
    moments(of_rows(rows, [&](int64_t r) { return entropy(raw + r * keys, keys, least); }).data(), rows, record);
  });
}

extern "C" void record_above(const void* x, bool half, int64_t rows, int64_t keys, float bound, float* record) {
  typed(x, half, [&](auto* raw) {
    moments(of_rows(rows, [&](int64_t r) { return largest(raw + r * keys, keys) > bound; }).data(), rows, record);
  });
}
"""
_RECORD_LEAST = 2**14  # numbers of a tensor; below it torch's own functions are as quick, and nothing has to be built


def is_recorded(x: Tensor) -> bool:
    """Whether the code serves a tensor: bf16 or fp32 on a CPU, without gaps, large enough, and not traced."""
    # What is traced has no memory, and torch.compile makes one pass of torch's own functions.
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter) or x.numel() < _RECORD_LEAST:
        return False
    fits = x.is_cpu and x.dtype in (torch.bfloat16, torch.float32) and x.is_contiguous()
    return fits and _record_library() is not None


def native_moments(x: Tensor) -> Tensor:
    """The record of all entries, from sums in fp64 of short ones in fp32."""
    return _recorded(_record_library().record_moments, x, x.numel())


def native_largest(scores_TS: Tensor, causal: bool) -> Tensor:
    """A record whose maximum is the largest score, with its sign; keys after the query do not count if `causal`."""
    queries, keys = scores_TS.shape[-2:]
    function = _record_library().record_largest
    return _recorded(function, scores_TS, scores_TS.numel() // keys, keys, queries * causal)


def native_entropy(weights_TS: Tensor, least: float) -> Tensor:
    """The record of the rows' entropies, with logarithms of what is at least `least`."""
    keys = weights_TS.shape[-1]
    return _recorded(_record_library().record_entropy, weights_TS, weights_TS.numel() // keys, keys, least)


def native_above(x_TS: Tensor, bound: float) -> Tensor:
    """A record whose mean is the share of rows of which an entry is above the bound."""
    keys = x_TS.shape[-1]
    return _recorded(_record_library().record_above, x_TS, x_TS.numel() // keys, keys, bound)


@cache
def _record_library() -> Any:
    """The code, built, with the types of what its functions take; or None."""
    library = cpp_library(_RECORD_CODE)
    if library is not None:
        count, number = ctypes.c_int64, ctypes.c_float
        rows = {"largest": (count, count, count), "entropy": (count, count, number), "above": (count, count, number)}
        for name, types in {"moments": (count,), **rows}.items():
            getattr(library, f"record_{name}").argtypes = (ctypes.c_void_p, ctypes.c_bool, *types, ctypes.c_void_p)
    return library


def _recorded(function: Any, x: Tensor, *numbers: float) -> Tensor:
    record = torch.empty(4)
    function(x.data_ptr(), x.dtype == torch.bfloat16, *numbers, record.data_ptr())
    return record

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
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

constexpr int64_t PIECE = 1 << 15;  // numbers that a thread takes at once
constexpr int64_t RUN = 2048;       // numbers that are summed in fp32, before their sum is added in fp64
constexpr int64_t STEP = 64;        // numbers that a loop goes on by
constexpr float LEAST = 1e-15f, MOST = 1e15f;  // between these, fp32 holds the squares and their sum
constexpr uint32_t SIGN = 0x80000000u, INFINITE = 0x7f800000u;

struct Part { double sum = 0, squares = 0; uint32_t largest = 0; };

template <class To, class From> inline To as(const From& x) { To y; std::memcpy(&y, &x, sizeof y); return y; }
inline uint32_t bits(float x) { return as<uint32_t>(x); }
inline float of_bits(uint32_t b) { return as<float>(b); }
inline float number(float x) { return x; }
inline float number(uint16_t x) { return of_bits(static_cast<uint32_t>(x) << 16); }

// 64 bytes, which compilers lay over as many registers as it takes.
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(128)));

// Bits of absolute values are ordered like these, and what is no number comes last. There are two of each sum, because
// an addition waits for the one before it.
struct Lanes {
  Floats sum[2] = {}, squares[2] = {};
  Doubles all_sum = {}, all_squares = {};
  Words largest[2] = {};
  Halves upper = {};  // halves of numbers that are in none of `largest`

  void take(Floats x, int64_t k) {
    const Words absolute = as<Words>(x) & ~SIGN;
    sum[k] += x, squares[k] += x * x, largest[k] = absolute > largest[k] ? absolute : largest[k];
  }
  void take(const float* x) {
    for (int64_t i = 0; i < STEP / 16; ++i) take(as<Floats>(x[16 * i]), i % 2);
  }
  void take(const uint16_t* x) {
    for (int64_t i = 0; i < STEP / 32; ++i) {
#ifdef __AVX512BF16__
      const Halves raw = as<Halves>(x[32 * i]), absolute = raw & uint16_t(0x7fff);
      const auto pairs = as<__m512bh>(raw), ones = as<__m512bh>(Halves{} + uint16_t(0x3f80));
      sum[i % 2] = _mm512_dpbf16_ps(sum[i % 2], pairs, ones);
      squares[i % 2] = _mm512_dpbf16_ps(squares[i % 2], pairs, pairs);
      upper = absolute > upper ? absolute : upper;
#else
      const Words pairs = as<Words>(x[32 * i]);
      take(as<Floats>(pairs << 16), 0), take(as<Floats>(pairs & 0xffff0000u), 1);
#endif
    }
  }
  void settle() {
    for (int64_t k = 0; k < 2; ++k) {
      all_sum += __builtin_convertvector(sum[k], Doubles), all_squares += __builtin_convertvector(squares[k], Doubles);
      sum[k] = squares[k] = Floats{};
    }
  }
  Part part() const {
    Part all;
    for (int i = 0; i < 16; ++i) all.sum += all_sum[i], all.squares += all_squares[i];
    for (int i = 0; i < 32; ++i) all.largest = std::max<uint32_t>(all.largest, largest[i / 16][i % 16]);
    for (int i = 0; i < 32; ++i) all.largest = std::max<uint32_t>(all.largest, upper[i] << 16);
    return all;
  }
};

template <class Raw> Part exact(const Raw* x, int64_t size) {
  double sum = 0, squares = 0;
  uint32_t largest = 0;
#pragma omp simd reduction(+ : sum, squares) reduction(max : largest)
  for (int64_t i = 0; i < size; ++i) {
    const double value = number(x[i]);
    sum += value, squares += value * value, largest = std::max(largest, bits(number(x[i])) & ~SIGN);
  }
  return {sum, squares, largest};
}

template <class Raw> Part piece(const Raw* x, int64_t size) {
  const int64_t whole = size / STEP * STEP;
  Lanes lanes;
  for (int64_t first = 0; first < whole; first += RUN, lanes.settle())
    for (int64_t i = first; i < std::min(whole, first + RUN); i += STEP) lanes.take(x + i);
  const Part found = lanes.part(), rest = exact(x + whole, size - whole);
  const float largest = of_bits(found.largest);
  if (!(largest == 0 || (largest > LEAST && largest < MOST))) return exact(x, size);
  return {found.sum + rest.sum, found.squares + rest.squares, std::max(found.largest, rest.largest)};
}

template <class Raw> void moments(const Raw* x, int64_t size, float* record) {
  std::vector<Part> parts((size + PIECE - 1) / PIECE);
  const int64_t count = parts.size();
#pragma omp parallel for schedule(static) if (count > 1)
  for (int64_t p = 0; p < count; ++p) parts[p] = piece(x + p * PIECE, std::min(PIECE, size - p * PIECE));
  Part all;
  for (const Part& p : parts)
    all = {all.sum + p.sum, all.squares + p.squares, std::max(all.largest, p.largest)};
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

// A key counts for a query if it is not after it; the queries are the last ones. Without queries all of them count.
inline int64_t seen(int64_t row, int64_t keys, int64_t queries) {
  return queries ? std::max<int64_t>(0, keys - queries + 1 + row % queries) : keys;
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

// The mean, and nothing else, of what each entry comes to that counts.
template <class Raw, class Entry>
void mean(const Raw* x, int64_t rows, int64_t keys, int64_t queries, float* record, const Entry& entry) {
  double count = 0, sum = 0;
  for (float found : of_rows(rows, [&](int64_t r) {
         float total = 0;
         const Raw* row = x + r * keys;
         const int64_t size = seen(r, keys, queries);
#pragma omp simd reduction(+ : total)
         for (int64_t i = 0; i < size; ++i) total += entry(number(row[i]));
         return total;
       })) sum += found;
  for (int64_t r = 0; r < rows; ++r) count += seen(r, keys, queries);
  record[0] = sum, record[1] = record[2] = 0, record[3] = count;
}

template <class Use> void typed(const void* x, bool half, const Use& use) {
  if (half) use(static_cast<const uint16_t*>(x));
  else use(static_cast<const float*>(x));
}

extern "C" void record_moments(const void* x, bool half, int64_t size, float* record) {
  typed(x, half, [&](auto* raw) { moments(raw, size, record); });
}

extern "C" void record_largest(const void* x, bool half, int64_t rows, int64_t keys, int64_t queries, float* record) {
  typed(x, half, [&](auto* raw) {
    const int64_t some = std::max<int64_t>(1, PIECE / keys), parts = (rows + some - 1) / some;
    const auto found = of_rows(parts, [&](int64_t p) {
      Peak peak;
      for (int64_t r = p * some; r < std::min(rows, (p + 1) * some); ++r)
        peak.add(raw + r * keys, seen(r, keys, queries));
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

extern "C" void record_outside(const void* x, bool half, int64_t rows, int64_t keys, int64_t queries, float* record) {
  typed(x, half, [&](auto* raw) {
    mean(raw, rows, keys, queries, record, [](float w) { return w <= 0 || w >= 1 ? 1.0f : 0.0f; });
  });
}

extern "C" void record_squares(
    const void* x, bool half, int64_t rows, int64_t keys, int64_t queries, float unit, float* record) {
  typed(x, half, [&](auto* raw) {
    mean(raw, rows, keys, queries, record, [unit](float y) { return y / unit * (y / unit); });
  });
}
"""


def is_recorded(x: Tensor) -> bool:
    """Whether the code serves a tensor: bf16 or fp32 on a CPU, without gaps, and not traced."""
    # What is traced has no memory, and torch.compile makes one pass of torch's own functions.
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter):
        return False
    fits = x.is_cpu and x.dtype in (torch.bfloat16, torch.float32) and x.is_contiguous()
    return fits and _record_library() is not None


def native_moments(x: Tensor) -> Tensor:
    """The record of all entries, from sums in fp64 of short ones in fp32."""
    return _recorded(_record_library().record_moments, x, x.numel())


def native_largest(scores_TS: Tensor, causal: bool) -> Tensor:
    """A record whose maximum is the largest score, with its sign; keys after the query do not count if `causal`."""
    return _recorded(_record_library().record_largest, scores_TS, *_seen(scores_TS, causal))


def native_outside(weights_TS: Tensor, causal: bool) -> Tensor:
    """A record whose mean is the share of entries at 0 or below, or at 1 or above."""
    return _recorded(_record_library().record_outside, weights_TS, *_seen(weights_TS, causal))


def native_squares(x_TS: Tensor, causal: bool, unit: float) -> Tensor:
    """A record whose mean is that of `(x / unit)^2`."""
    return _recorded(_record_library().record_squares, x_TS, *_seen(x_TS, causal), unit)


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
        seen = (count, count, count)
        pairs = {"largest": seen, "outside": seen, "squares": (*seen, number)}
        rows = {"entropy": (count, count, number), "above": (count, count, number)}
        for name, types in {"moments": (count,), **pairs, **rows}.items():
            getattr(library, f"record_{name}").argtypes = (ctypes.c_void_p, ctypes.c_bool, *types, ctypes.c_void_p)
    return library


def _seen(x_TS: Tensor, causal: bool) -> tuple[int, int, int]:
    """Rows, keys and, if keys after the query do not count, queries."""
    queries, keys = x_TS.shape[-2:]
    return x_TS.numel() // keys, keys, queries * causal


def _recorded(function: Any, x: Tensor, *numbers: float) -> Tensor:
    record = torch.empty(4)
    function(x.data_ptr(), x.dtype == torch.bfloat16, *numbers, record.data_ptr())
    return record

"""The blocks of `blockwise` for bf16 on CPUs, in C++ that torch's own compiler builds once.

Axes: G heads, S tokens in N blocks of C, K features of queries and keys, V features of values, 2 what lies in pairs.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blockgraph.kernels.cpp import cpp_library

# torch rounds the result of a bf16 product to bf16 on the CPU; what it is built on gives fp32, which scores need.
_BLOCK_CODE = """
#pragma GCC optimize("tree-loop-vectorize", "no-trapping-math")  // torch builds its own vectors and turns these off
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

using Number = c10::BFloat16;
using at::native::cpublas::brgemm;

struct Rule { float scale, cap, zeta, gamma; };
struct Sizes { int64_t heads, tokens, seq, block, features, values, window, row_a, row_b, next_a, next_b; };

inline uint32_t bits(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline uint32_t rounded(float x) { const uint32_t b = bits(x); return b + 0x7fffu + ((b >> 16) & 1u); }

// e^x to 3e-6, in steps that a compiler turns into vectors.
inline float power(float x) {
  x = std::min(std::max(x * 1.44269504f, -126.0f), 126.0f);
  const int32_t whole = static_cast<int32_t>(x + 126.5f) - 126;  // rounded, without a branch
  const float f = x - static_cast<float>(whole);
  float y = 1.0f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * 0.00133336f))));
  const uint32_t b = bits(y) + (static_cast<uint32_t>(whole) << 23);
  std::memcpy(&y, &b, 4);
  return y + 0.0f * x;  // what is not a number stays so
}

inline float tanh_of_half(float x) { return 1.0f - 2.0f / (power(x) + 1.0f); }

inline void store(const float* from, Number* to, int64_t count) {
  uint16_t* raw = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < count; ++i) raw[i] = static_cast<uint16_t>(rounded(from[i]) >> 16);
}

// Which of `size` tokens from `start` on lie between `first` and `last`.
inline std::pair<int64_t, int64_t> within(int64_t first, int64_t last, int64_t start, int64_t size) {
  const int64_t low = std::min(size, std::max<int64_t>(0, first - start));
  return {low, std::max(low, std::min(size, last + 1 - start))};
}

inline int64_t first_seen(int64_t row, const Sizes& z) { return z.window ? row - z.window + 1 : 0; }
inline int64_t last_seeing(int64_t column, const Sizes& z) { return z.window ? column + z.window - 1 : z.seq; }

constexpr float LEAST = -1e30f;

// Scores of a row's visible keys; the largest of them, which comes from the largest product, and that product.
template <bool capped> std::pair<float, float> scores(float* row, int64_t low, int64_t high, const Rule& r) {
  const float scale = r.scale, cap = r.cap, rate = 2.0f * r.scale / r.cap;
  float most = LEAST;
#pragma omp simd reduction(max : most)
  for (int64_t i = low; i < high; ++i) most = std::max(most, row[i]);
#pragma omp simd
  for (int64_t i = low; i < high; ++i) row[i] = capped ? cap * tanh_of_half(row[i] * rate) : row[i] * scale;
  return {high > low ? (capped ? cap * tanh_of_half(most * rate) : most * scale) : LEAST, most};
}

// Weights of a row with a known normaliser, zero where hidden; their sum.
inline float weights(float* row, int64_t low, int64_t high, int64_t size, float less) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = low; i < high; ++i) { row[i] = power(row[i] - less); sum += row[i]; }
  std::fill(row, row + low, 0.0f);
  std::fill(row + high, row + size, 0.0f);
  return sum;
}

template <bool capped, bool clipped>
void rows_forward(const Sizes& z, const Rule& r, int64_t start, const Number* q, const Number* keys,
                  const Number* values, Number* out, float* lse, Number* inner, float* largest) {
  const int64_t C = z.block, V = z.values;
  std::vector<float> s(C * C), sums(C * V), kept(clipped ? C * V : 0), most(C, LEAST), norm(C, 0.0f), line(C);
  float product = LEAST;
  std::vector<Number> w(C * C), u(clipped ? C * C : 0);
  auto each = [&](bool weighs, auto&& absorb) {
    for (int64_t column = std::max<int64_t>(0, first_seen(start, z)) / C * C; column <= start; column += C) {
      brgemm(C, C, z.features, z.row_a, C, C, false, q + start * z.row_a, keys + column * z.features, s.data(), true);
      for (int64_t i = 0; i < C; ++i) {
        const auto [low, high] = within(first_seen(start + i, z), start + i, column, C);
        absorb(i, &s[i * C], low, high);
      }
      if (weighs) {
        brgemm(C, V, C, C, V, V, true, w.data(), values + column * V, sums.data(), true);
        if (clipped) brgemm(C, V, C, C, V, V, true, u.data(), values + column * V, kept.data(), true);
      }
    }
  };
  each(!clipped, [&](int64_t i, float* row, int64_t low, int64_t high) {
    const auto [score, from] = scores<capped>(row, low, high, r);
    const float larger = std::max(most[i], score), shrunk = power(most[i] - larger);
    if (start + i < z.tokens) product = std::max(product, from);
    norm[i] = norm[i] * shrunk + weights(row, low, high, C, larger);
    if (!clipped) {
      store(row, &w[i * C], C);
      if (larger > most[i]) for (int64_t j = 0; j < V; ++j) sums[i * V + j] *= shrunk;
    }
    most[i] = larger;
  });
  for (int64_t i = 0; i < C; ++i) {
    const float logs = most[i] + std::log(norm[i]);
    if (start + i < z.tokens) {
      lse[start + i] = logs;
      if (std::isnan(logs)) product = logs;  // what is no number wins
    }
    if (!clipped) for (int64_t j = 0; j < V; ++j) sums[i * V + j] /= norm[i];
    most[i] = logs;
  }
  if (clipped) each(true, [&](int64_t i, float* row, int64_t low, int64_t high) {
    scores<capped>(row, low, high, r);
    weights(row, low, high, C, most[i]);
    const float rise = r.zeta - r.gamma;
#pragma omp simd
    for (int64_t j = 0; j < C; ++j) {
      const float stretched = rise * row[j] + r.gamma;
      line[j] = (stretched >= 0) & (stretched <= 1) ? rise * row[j] : 0.0f;
      row[j] = std::min(std::max(stretched, 0.0f), 1.0f);
    }
    std::fill(row, row + low, 0.0f), std::fill(line.begin(), line.begin() + low, 0.0f);
    std::fill(row + high, row + C, 0.0f), std::fill(line.begin() + high, line.end(), 0.0f);
    store(row, &w[i * C], C), store(line.data(), &u[i * C], C);
  });
  *largest = product;
  for (int64_t i = 0; i < std::min(C, z.tokens - start); ++i) {
    store(&sums[i * V], out + (start + i) * z.row_b, V);
    if (clipped) store(&kept[i * V], inner + (start + i) * z.row_b, V);
  }
}

// A key's weights and score gradients for a block of queries.
template <bool capped, bool clipped>
void column_backward(const float* products, const float* d_weights, const float* lse, const float* mean, int64_t low,
                     int64_t high, int64_t size, const Rule& r, float* used, float* d) {
  std::fill(used, used + size, 0.0f);
  std::fill(d, d + size, 0.0f);
  const float scale = r.scale, cap = r.cap, rate = 2.0f * r.scale / r.cap, gamma = r.gamma, stretch = r.zeta - r.gamma;
  if (capped) {
#pragma omp simd
    for (int64_t i = low; i < high; ++i) d[i] = tanh_of_half(products[i] * rate);
  }
#pragma omp simd
  for (int64_t i = low; i < high; ++i) used[i] = power((capped ? cap * d[i] : products[i] * scale) - lse[i]);
#pragma omp simd
  for (int64_t i = low; i < high; ++i) {
    const float w = used[i], stretched = stretch * w + gamma;
    if (clipped) used[i] = std::min(std::max(stretched, 0.0f), 1.0f);
    const float slope = clipped ? (used[i] == stretched ? stretch : 0.0f) : 1.0f;
    d[i] = w * (d_weights[i] * slope - mean[i]) * (capped ? scale * (1.0f - d[i] * d[i]) : scale);
  }
}

struct Given { const Number *k, *v, *q_pairs, *grad_pairs, *q_rows, *grad_rows, *k_across; const float *lse, *mean; };

template <bool capped, bool clipped>
void head_backward(const Sizes& z, const Rule& r, const Given& g, Number* dq, Number* dk, Number* dv) {
  const int64_t C = z.block, K = z.features, V = z.values;
  std::vector<float> s(C * C), d(C * C), sums(z.seq * K, 0.0f), dk_sum(C * K), dv_sum(C * V), used(C), lines(2 * C);
  std::vector<Number> w(C * C), e(C * C), pairs(C * C);
  for (int64_t column = 0; column < z.seq; column += C) {
    for (int64_t row = column; row <= std::min(z.seq - C, last_seeing(column + C - 1, z)); row += C) {
      brgemm(C, C, K, z.row_a, C, C, false, g.k + column * z.row_a, g.q_pairs + row * K, s.data(), true);
      brgemm(C, C, V, z.row_b, C, C, false, g.v + column * z.row_b, g.grad_pairs + row * V, d.data(), true);
      for (int64_t j = 0; j < C; ++j) {
        const auto [low, high] = within(column + j, last_seeing(column + j, z), row, C);
        float* line = &lines[j % 2 * C];
        column_backward<capped, clipped>(&s[j * C], &d[j * C], g.lse + row, g.mean + row, low, high, C, r, used.data(),
                                         line);
        store(used.data(), &w[j * C], C);
        store(line, &e[j * C], C);
        uint32_t* pair = reinterpret_cast<uint32_t*>(&pairs[j / 2 * 2 * C]);
        if (j % 2) for (int64_t i = 0; i < C; ++i)
          pair[i] = (rounded(lines[i]) >> 16) | (rounded(lines[C + i]) & 0xffff0000u);
      }
      brgemm(C, V, C, C, V, V, row > column, w.data(), g.grad_rows + row * V, dv_sum.data(), true);
      brgemm(C, K, C, C, K, K, row > column, e.data(), g.q_rows + row * K, dk_sum.data(), true);
      brgemm(K, C, C, z.seq, C, C, true, g.k_across + column, pairs.data(), &sums[row * K], true);
    }
    for (int64_t j = 0; j < std::min(C, z.tokens - column); ++j) {
      store(&dk_sum[j * K], dk + (column + j) * K, K);
      store(&dv_sum[j * V], dv + (column + j) * V, V);
    }
  }
  for (int64_t t = 0; t < z.tokens; ++t)
    for (int64_t i = 0; i < K; ++i) dq[t * K + i] = Number(sums[t / C * C * K + i * C + t % C]);
}

template <class Work> bool all(int64_t count, const Work& work) {
  try {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) work(i);
      at::native::cpublas::brgemm_release(true);
    });
  } catch (...) { return false; }
  return true;
}

template <class Work> bool chosen(bool capped, bool clipped, const Work& work) {
  if (capped) return clipped ? work(std::true_type(), std::true_type()) : work(std::true_type(), std::false_type());
  return clipped ? work(std::false_type(), std::true_type()) : work(std::false_type(), std::false_type());
}

extern "C" bool works() {
  return all(1, [](int64_t) {
    std::vector<Number> x(32 * 32, Number(1.0f));
    std::vector<float> y(32 * 32);
    brgemm(32, 32, 32, 32, 32, 32, false, x.data(), x.data(), y.data(), true);
    if (y[0] != 32.0f) throw std::runtime_error("not a product");
  });
}

extern "C" bool forward(void** p, const Sizes& z, const Rule& r, bool capped, bool clipped) {
  const int64_t blocks = z.seq / z.block;
  return chosen(capped, clipped, [&](auto cap, auto clip) {
    return all(z.heads * blocks, [&](int64_t i) {
      const int64_t head = i / blocks, keys = head * z.seq * z.features, values = head * z.seq * z.values;
      rows_forward<cap, clip>(z, r, i % blocks * z.block, static_cast<Number*>(p[0]) + head * z.next_a,
                              static_cast<Number*>(p[1]) + keys, static_cast<Number*>(p[2]) + values,
                              static_cast<Number*>(p[3]) + head * z.next_b, static_cast<float*>(p[4]) + head * z.tokens,
                              static_cast<Number*>(p[5]) + head * z.next_b, static_cast<float*>(p[6]) + i);
    });
  });
}

extern "C" bool backward(void** p, const Sizes& z, const Rule& r, bool capped, bool clipped) {
  return chosen(capped, clipped, [&](auto cap, auto clip) {
    return all(z.heads, [&](int64_t head) {
      auto part = [&](int i, int64_t next) { return static_cast<Number*>(p[i]) + head * next; };
      const int64_t keys = z.seq * z.features, values = z.seq * z.values;
      const Given g{part(0, z.next_a), part(1, z.next_b), part(2, keys), part(3, values), part(4, keys),
                    part(5, values), part(6, keys), static_cast<float*>(p[7]) + head * z.seq,
                    static_cast<float*>(p[8]) + head * z.seq};
      head_backward<cap, clip>(z, r, g, part(9, z.tokens * z.features), part(10, z.tokens * z.features),
                               part(11, z.tokens * z.values));
    });
  });
}
"""


_BLOCK_SIZES = "heads tokens seq block features values window row_a row_b next_a next_b"


class _BlockSizes(ctypes.Structure):
    """As in the code."""

    _fields_ = tuple((name, ctypes.c_int64) for name in _BLOCK_SIZES.split())


class BlockRule(NamedTuple):
    """Size of the blocks, how products become weights (scale, cap, zeta, gamma), and who sees whom."""

    block: int
    numbers: Sequence[float]
    capped: bool
    clipped: bool
    window: int | None


def native_forward(given: Sequence[Tensor], results: Sequence[Tensor], rule: BlockRule) -> None:
    """From q, k and v fill in what `_attend` gives for some heads; whole blocks are given."""
    (q_GSK, k_GSK, v_GSV), (out, lse, inner, largest) = given, results
    q_GSK = _with_rows(q_GSK)
    tensors = (q_GSK, _feature_pairs(k_GSK, rule.block), _token_pairs(v_GSV), out, lse, inner, largest)
    _call_blocks("forward", tensors, _block_sizes(q_GSK, v_GSV, lse.shape[1], rule, (q_GSK, out)), rule)


def native_backward(given: Sequence[Tensor], mean: Tensor, results: Sequence[Tensor], rule: BlockRule) -> None:
    """From the output's gradient, q, k, v and logs fill in the gradients of q, k and v; whole blocks are given."""
    grad, q, k, v, lse = given
    k, v, block = _with_rows(k), _with_rows(v), rule.block
    packed = (_feature_pairs(q, block), _feature_pairs(grad, block), _token_pairs(q), _token_pairs(grad))
    tensors = (k, v, *packed, k.mT.contiguous(), lse.contiguous(), mean.contiguous(), *results)
    _call_blocks("backward", tensors, _block_sizes(q, v, results[0].shape[1], rule, (k, v)), rule)


def is_native(q: Tensor, v: Tensor) -> bool:
    """Whether the code serves these: bf16 on a CPU with AVX-512, an even count of features, and a compiler."""
    fits = q.is_cpu and q.dtype == v.dtype == torch.bfloat16 and q.shape[-1] % 2 == 0 and v.shape[-1] % 2 == 0
    return fits and _block_library() is not None


@cache
def _block_library() -> Any:
    """The code, built, where there is a compiler and the processor can; otherwise None."""
    library = cpp_library(_BLOCK_CODE) if "AVX512" in torch.backends.cpu.get_cpu_capability() else None
    if library is None:
        return None
    library.forward.restype = library.backward.restype = library.works.restype = ctypes.c_bool
    return library if library.works() else None


def _call_blocks(name: str, tensors: Sequence[Tensor], sizes: _BlockSizes, rule: BlockRule) -> None:
    pointers = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
    numbers, kind = (ctypes.c_float * 4)(*rule.numbers), map(ctypes.c_bool, (rule.capped, rule.clipped))
    done = getattr(_block_library(), name)(pointers, ctypes.byref(sizes), numbers, *kind)
    assert done, "it was tried when it was built"


def _block_sizes(q: Tensor, v: Tensor, tokens: int, rule: BlockRule, strided: Sequence[Tensor]) -> _BlockSizes:
    shape = (q.shape[0], tokens, q.shape[1], rule.block, q.shape[2], v.shape[2], rule.window or 0)
    return _BlockSizes(*shape, *(x.stride(1) for x in strided), *(x.stride(0) for x in strided))


def _with_rows(x: Tensor) -> Tensor:
    """The same, with the features of a token side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _feature_pairs(x_GSK: Tensor, block: int) -> Tensor:
    """[G, N, K / 2, C, 2]: what a product of bf16 reads at a time are two features of a token."""
    pairs = x_GSK.contiguous().view(torch.int32)
    return pairs.view(len(x_GSK), -1, block, pairs.shape[-1]).mT.contiguous()


def _token_pairs(x_GSK: Tensor) -> Tensor:
    """[G, S / 2, K, 2]: the same feature of two tokens next to each other."""
    return x_GSK.reshape(len(x_GSK), -1, 2, x_GSK.shape[-1]).mT.contiguous()

"""The blocks of `blockwise` for bf16 on CPUs, in C++ that torch's own compiler builds once.

Names in it: C rows and columns of a block, S tokens up to whole blocks, K features of queries and keys, V of values.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

_NATIVE_FROM = 128  # tokens; building the code takes seconds once, which shorter sequences hardly earn back
_SHORT = 512  # tokens up to which small blocks are faster, for less of them is hidden
_SMALL_BLOCK = 64
_LARGE_BLOCK = 128

# torch rounds the result of a bf16 product to bf16 on the CPU; what it is built on gives fp32, which scores need.
_BLOCK_CODE = """
#pragma GCC optimize("tree-loop-vectorize", "no-trapping-math")  // torch builds its own vectors and turns these off
#pragma GCC target("prefer-vector-width=512")
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

using Number = c10::BFloat16;
using at::native::cpublas::brgemm;

// A tensor [batch, heads, tokens, features] whose features lie side by side.
struct View {
  Number* data; int64_t per_batch, per_head, per_token;
  View of(int64_t batch, int64_t head) const {
    return {data + batch * per_batch + head * per_head, per_batch, per_head, per_token};
  }
  Number* at(int64_t token) const { return data + token * per_token; }
};

struct Call {
  int64_t batch, heads, tokens, block, features, values, window;
  float scale, cap, zeta, gamma;
  View q, k, v, out, inner, grad, dq, dk, dv;
  float* lse;
  int64_t blocks() const { return (tokens + block - 1) / block; }
  int64_t padded() const { return blocks() * block; }
  int64_t first_seen(int64_t row) const { return window ? row - window + 1 : 0; }
  int64_t last_seeing(int64_t column) const { return window ? column + window - 1 : padded(); }
};

inline uint32_t bits(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline float number(uint32_t b) { float x; std::memcpy(&x, &b, 4); return x; }
inline uint32_t rounded(float x) { const uint32_t b = bits(x); return b + 0x7fffu + ((b >> 16) & 1u); }
inline uint16_t* raw(Number* x) { return reinterpret_cast<uint16_t*>(x); }
inline const uint16_t* raw(const Number* x) { return reinterpret_cast<const uint16_t*>(x); }

// e^x to 3e-6, in steps that a compiler turns into vectors.
inline float power(float x) {
  x = std::min(std::max(x * 1.44269504f, -126.0f), 126.0f);
  const int32_t whole = static_cast<int32_t>(x + 126.5f) - 126;  // rounded, without a branch
  const float f = x - static_cast<float>(whole);
  float y = 1.0f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * 0.00133336f))));
  y = number(bits(y) + (static_cast<uint32_t>(whole) << 23));
  return y + 0.0f * x;  // what is not a number stays so
}

constexpr int32_t LANES = 32;  // rows are worked on in steps of so many numbers, whatever of them is hidden

inline int32_t whole(int32_t count) { return (count + LANES - 1) / LANES * LANES; }

inline float tanh_of_half(float x) { return 1.0f - 2.0f / (power(x) + 1.0f); }

inline void store(const float* from, Number* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) raw(to)[i] = static_cast<uint16_t>(rounded(from[i]) >> 16);
}

// Two rows of numbers in turn, as products read them.
inline void pair(const Number* first, const Number* second, Number* to, int64_t count) {
  const uint16_t *a = raw(first), *b = raw(second);
  uint32_t* pairs = reinterpret_cast<uint32_t*>(to);
  for (int64_t i = 0; i < count; ++i) pairs[i] = static_cast<uint32_t>(a[i]) | static_cast<uint32_t>(b[i]) << 16;
}

// [tokens, features] whole, zeros behind the last token: every feature of two tokens next to each other.
void token_pairs(const View& x, const Call& c, int64_t features, Number* to) {
  const std::vector<Number> zeros(features, Number(0.0f));
  auto row = [&](int64_t t) { return t < c.tokens ? x.at(t) : zeros.data(); };
  for (int64_t t = 0; t < c.padded(); t += 2) pair(row(t), row(t + 1), to + t * features, features);
}

// A block of rows side by side, zeros behind the last token.
void rows(const View& x, const Call& c, int64_t start, int64_t features, Number* to) {
  const int64_t count = std::min(c.block, c.tokens - start);
  for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * features, x.at(start + i), 2 * features);
  std::memset(static_cast<void*>(to + count * features), 0, 2 * (c.block - count) * features);
}

// [blocks, features / 2, tokens of a block, 2]: every token's features in pairs. `given` has room for a block.
void feature_pairs(const View& x, const Call& c, int64_t features, Number* given, Number* to) {
  const int half = static_cast<int>(features / 2), size = static_cast<int>(c.block);
  for (int64_t t = 0; t < c.padded(); t += c.block) {
    rows(x, c, t, features, given);
    float *from = reinterpret_cast<float*>(given), *pairs = reinterpret_cast<float*>(to + t * features);
    at::vec::transpose_mxn<float>(from, half, pairs, size, size, half);
  }
}

// From pairs of features the features by themselves, [blocks, features, tokens of a block].
void apart(const Number* pairs, int64_t rows, int64_t width, Number* to) {
  for (int64_t i = 0; i < rows; ++i) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(pairs) + i * width;
    uint16_t *even = raw(to) + 2 * i * width, *odd = even + width;
    for (int64_t t = 0; t < width; ++t) even[t] = static_cast<uint16_t>(from[t]);
    for (int64_t t = 0; t < width; ++t) odd[t] = static_cast<uint16_t>(from[t] >> 16);
  }
}

// Which of a block's tokens from `start` on lie between `first` and `last`.
inline std::pair<int64_t, int64_t> within(int64_t first, int64_t last, int64_t start, int64_t size) {
  const int64_t low = std::min(size, std::max<int64_t>(0, first - start));
  return {low, std::max(low, std::min(size, last + 1 - start))};
}

template <bool capped> inline float score(float product, const Call& c, float rate) {
  return capped ? c.cap * tanh_of_half(product * rate) : product * c.scale;
}

template <bool capped, bool clipped> struct Forward {
  const Call& c;
  const int64_t C, K, V, S;
  std::vector<Number> k_pairs, v_pairs, q, w, u;
  std::vector<float> s, sums, kept, most, norm;

  explicit Forward(const Call& call)
      : c(call), C(c.block), K(c.features), V(c.values), S(c.padded()), k_pairs(S * K), v_pairs(S * V), q(C * K),
        w(C * C), u(clipped ? C * C : 0), s(C * C), sums(C * V), kept(clipped ? C * V : 0), most(C), norm(C) {}

  // Rows of one part of the blocks of one head.
  void operator()(int64_t batch, int64_t head, int64_t part, int64_t parts) {
    feature_pairs(c.k.of(batch, head), c, K, q.data(), k_pairs.data());
    token_pairs(c.v.of(batch, head), c, V, v_pairs.data());
    for (int64_t start = part * C; start < c.tokens; start += parts * C) block(batch, head, start);
  }

  // Whether a clip has left no weight of a block, which is common: it takes all below -gamma / (zeta - gamma).
  bool none() const { return std::all_of(raw(w.data()), raw(w.data()) + C * C, [](uint16_t x) { return x == 0; }); }

  template <class Absorb> void each(int64_t start, bool weighs, const Absorb& absorb) {
    const int64_t first = std::max<int64_t>(0, c.first_seen(start)) / C * C;
    for (int64_t column = first; column <= start; column += C) {
      brgemm(C, C, K, K, C, C, false, q.data(), k_pairs.data() + column * K, s.data(), true);
      for (int64_t i = 0; i < C; ++i) {
        const auto [low, high] = within(c.first_seen(start + i), start + i, column, C);
        absorb(i, low, high);
      }
      if (!weighs || (clipped && none())) continue;
      brgemm(C, V, C, C, V, V, true, w.data(), v_pairs.data() + column * V, sums.data(), true);
      if (clipped) brgemm(C, V, C, C, V, V, true, u.data(), v_pairs.data() + column * V, kept.data(), true);
    }
  }

  void absorb(int64_t i, int64_t low, int64_t high) {
    const float rate = 2.0f * c.scale / c.cap, *row = &s[i * C];
    const int32_t first = static_cast<int32_t>(low), last = static_cast<int32_t>(high), end = whole(last);
    float largest = -1e30f, sum = 0;
#pragma omp simd reduction(max : largest)
    for (int32_t j = 0; j < end; ++j) largest = std::max(largest, (j >= first) & (j < last) ? row[j] : -1e30f);
    const float larger = high > low ? std::max(most[i], score<capped>(largest, c, rate)) : most[i];
    const float shrunk = power(most[i] - larger);
    uint16_t* to = raw(&w[i * C]);
#pragma omp simd reduction(+ : sum)
    for (int32_t j = 0; j < end; ++j) {
      const float found = power(score<capped>(row[j], c, rate) - larger);
      const float weight = (j >= first) & (j < last) ? found : 0.0f;
      sum += weight;
      if (!clipped) to[j] = static_cast<uint16_t>(rounded(weight) >> 16);
    }
    norm[i] = norm[i] * shrunk + sum;
    if (!clipped) {
      std::fill(to + end, to + C, 0);
      if (larger > most[i]) for (int64_t j = 0; j < V; ++j) sums[i * V + j] *= shrunk;
    }
    most[i] = larger;
  }

  void clip(int64_t i, int64_t low, int64_t high) {
    const float rate = 2.0f * c.scale / c.cap, rise = c.zeta - c.gamma, less = most[i], *row = &s[i * C];
    uint16_t *to = raw(&w[i * C]), *line = raw(&u[i * C]);
    const int32_t first = static_cast<int32_t>(low), last = static_cast<int32_t>(high), end = whole(last);
#pragma omp simd
    for (int32_t j = 0; j < end; ++j) {
      const float weight = rise * power(score<capped>(row[j], c, rate) - less), stretched = weight + c.gamma;
      const bool seen = (j >= first) & (j < last);
      to[j] = static_cast<uint16_t>(rounded(seen ? std::min(std::max(stretched, 0.0f), 1.0f) : 0.0f) >> 16);
      line[j] = static_cast<uint16_t>(rounded(seen & (stretched >= 0) & (stretched <= 1) ? weight : 0.0f) >> 16);
    }
    std::fill(to + end, to + C, 0), std::fill(line + end, line + C, 0);
  }

  void block(int64_t batch, int64_t head, int64_t start) {
    rows(c.q.of(batch, head), c, start, K, q.data());
    std::fill(most.begin(), most.end(), -1e30f), std::fill(norm.begin(), norm.end(), 0.0f);
    std::fill(sums.begin(), sums.end(), 0.0f), std::fill(kept.begin(), kept.end(), 0.0f);
    each(start, !clipped, [&](int64_t i, int64_t low, int64_t high) { absorb(i, low, high); });
    for (int64_t i = 0; i < C; ++i) {
      const float less = 1.0f / norm[i];
      most[i] += std::log(norm[i]);
      if (!clipped) for (int64_t j = 0; j < V; ++j) sums[i * V + j] *= less;
    }
    if (clipped) each(start, true, [&](int64_t i, int64_t low, int64_t high) { clip(i, low, high); });
    const View out = c.out.of(batch, head), inner = c.inner.of(batch, head);
    for (int64_t i = 0; i < std::min(C, c.tokens - start); ++i) {
      store(&sums[i * V], out.at(start + i), V);
      if (clipped) store(&kept[i * V], inner.at(start + i), V);
      c.lse[(batch * c.heads + head) * c.tokens + start + i] = most[i];
    }
  }
};

template <bool capped, bool clipped> struct Backward {
  const Call& c;
  const int64_t C, K, V, S;
  std::vector<Number> q_pairs, g_pairs, q_rows, g_rows, k_across, k, v, w, e, pairs;
  std::vector<float> s, d, dq, dk, dv, lse, mean;

  explicit Backward(const Call& call)
      : c(call), C(c.block), K(c.features), V(c.values), S(c.padded()), q_pairs(S * K), g_pairs(S * V), q_rows(S * K),
        g_rows(S * V), k_across(S * K), k(C * K), v(C * V), w(C * C), e(C * C), pairs(std::max(S * K, C * C)),
        s(C * C), d(C * C), dq(S * K), dk(C * K), dv(C * V), lse(S), mean(S) {}

  void operator()(int64_t batch, int64_t head) {
    prepare(batch, head);
    for (int64_t column = 0; column < S; column += C) {
      rows(c.k.of(batch, head), c, column, K, k.data());
      rows(c.v.of(batch, head), c, column, V, v.data());
      for (int64_t row = column; row <= std::min(S - C, c.last_seeing(column + C - 1)); row += C) square(column, row);
      const View dk_view = c.dk.of(batch, head), dv_view = c.dv.of(batch, head);
      for (int64_t j = 0; j < std::min(C, c.tokens - column); ++j) {
        store(&dk[j * K], dk_view.at(column + j), K);
        store(&dv[j * V], dv_view.at(column + j), V);
      }
    }
    const View dq_view = c.dq.of(batch, head);
    for (int64_t row = 0; row < S; row += C) {
      at::vec::transpose_mxn<float>(&dq[row * K], C, dk.data(), K, static_cast<int>(K), static_cast<int>(C));
      for (int64_t i = 0; i < std::min(C, c.tokens - row); ++i) store(&dk[i * K], dq_view.at(row + i), K);
    }
  }

  void prepare(int64_t batch, int64_t head) {
    const View grad = c.grad.of(batch, head), inner = c.inner.of(batch, head);
    feature_pairs(c.q.of(batch, head), c, K, k.data(), q_pairs.data());
    feature_pairs(grad, c, V, v.data(), g_pairs.data());
    token_pairs(c.q.of(batch, head), c, K, q_rows.data());
    token_pairs(grad, c, V, g_rows.data());
    feature_pairs(c.k.of(batch, head), c, K, k.data(), pairs.data());
    apart(pairs.data(), S / C * (K / 2), C, k_across.data());
    std::fill(dq.begin(), dq.end(), 0.0f), std::fill(lse.begin(), lse.end(), 0.0f);
    std::copy_n(c.lse + (batch * c.heads + head) * c.tokens, c.tokens, lse.begin());
    for (int64_t t = 0; t < c.tokens; ++t) {
      const uint16_t *a = raw(grad.at(t)), *b = raw(inner.at(t));
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < V; ++i)
        sum += number(static_cast<uint32_t>(a[i]) << 16) * number(static_cast<uint32_t>(b[i]) << 16);
      mean[t] = sum;
    }
  }

  // What a block of keys and a block of queries give to the gradients. A row of scores is a key's.
  void square(int64_t column, int64_t row) {
    brgemm(C, C, K, K, C, C, false, k.data(), q_pairs.data() + row * K, s.data(), true);
    brgemm(C, C, V, V, C, C, false, v.data(), g_pairs.data() + row * V, d.data(), true);
    for (int64_t j = 0; j < C; ++j) {
      key(j, column, row);
      if (j % 2) pair(&e[(j - 1) * C], &e[j * C], &pairs[(j - 1) * C], C);
    }
    brgemm(C, V, C, C, V, V, row > column, w.data(), g_rows.data() + row * V, dv.data(), true);
    brgemm(C, K, C, C, K, K, row > column, e.data(), q_rows.data() + row * K, dk.data(), true);
    brgemm(K, C, C, C, C, C, true, k_across.data() + column * K, pairs.data(), &dq[row * K], true);
  }

  void key(int64_t j, int64_t column, int64_t row) {
    const auto [low, high] = within(column + j, c.last_seeing(column + j), row, C);
    const float *product = &s[j * C], *rise = &d[j * C], *less = &lse[row], *part = &mean[row];
    const float rate = 2.0f * c.scale / c.cap, stretch = c.zeta - c.gamma, scale = c.scale;
    uint16_t *used = raw(&w[j * C]), *fall = raw(&e[j * C]);
    const int32_t first = static_cast<int32_t>(low), last = static_cast<int32_t>(high), start = first / LANES * LANES;
    std::fill(used, used + start, 0), std::fill(fall, fall + start, 0);
#pragma omp simd
    for (int32_t i = start; i < static_cast<int32_t>(C); ++i) {
      const bool seen = (i >= first) & (i < last);
      const float tanh = capped ? tanh_of_half(product[i] * rate) : 0.0f;
      const float weight = power((capped ? c.cap * tanh : product[i] * scale) - less[i]);
      const float stretched = stretch * weight + c.gamma;
      const float clear = std::min(std::max(stretched, 0.0f), 1.0f);
      const float slope = clipped ? (clear == stretched ? stretch : 0.0f) : 1.0f;
      const float found = weight * (rise[i] * slope - part[i]) * (capped ? scale * (1.0f - tanh * tanh) : scale);
      used[i] = static_cast<uint16_t>(rounded(!seen ? 0.0f : clipped ? clear : weight) >> 16);
      fall[i] = static_cast<uint16_t>(rounded(seen ? found : 0.0f) >> 16);
    }
  }
};

template <class Work> bool all(int64_t count, const Work& work) {
  try {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      work(begin, end);
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
  return all(1, [](int64_t, int64_t) {
    std::vector<Number> x(32 * 32, Number(1.0f));
    std::vector<float> y(32 * 32);
    brgemm(32, 32, 32, 32, 32, 32, false, x.data(), x.data(), y.data(), true);
    if (y[0] != 32.0f) throw std::runtime_error("not a product");
  });
}

extern "C" bool forward(const Call& c, bool capped, bool clipped) {
  const int64_t heads = c.batch * c.heads, parts = std::min(c.blocks(), (at::get_num_threads() + heads - 1) / heads);
  return chosen(capped, clipped, [&](auto cap, auto clip) {
    return all(heads * parts, [&](int64_t begin, int64_t end) {
      Forward<cap, clip> rows(c);
      for (int64_t i = begin; i < end; ++i) rows(i / parts / c.heads, i / parts % c.heads, i % parts, parts);
    });
  });
}

extern "C" bool backward(const Call& c, bool capped, bool clipped) {
  return chosen(capped, clipped, [&](auto cap, auto clip) {
    return all(c.batch * c.heads, [&](int64_t begin, int64_t end) {
      Backward<cap, clip> head(c);
      for (int64_t i = begin; i < end; ++i) head(i / c.heads, i % c.heads);
    });
  });
}
"""


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
    )


class BlockRule(NamedTuple):
    """How products become weights (scale, cap, zeta, gamma), and who sees whom."""

    numbers: Sequence[float]
    capped: bool
    clipped: bool
    window: int | None


def native_forward(q: Tensor, k: Tensor, v: Tensor, results: Sequence[Tensor], rule: BlockRule) -> None:
    """Fill in output, logs of normalisers and inner output; the features of each lie side by side."""
    out, lse, inner = results
    _call_blocks("forward", {"q": q, "k": k, "v": v, "out": out, "inner": inner}, lse, rule)


def native_backward(given: Sequence[Tensor], results: Sequence[Tensor], rule: BlockRule) -> None:
    """From the output's gradient, q, k, v, logs and inner output fill in the gradients of q, k and v."""
    grad, q, k, v, lse, inner = given
    dq, dk, dv = results
    tensors = {"q": q, "k": k, "v": v, "inner": inner, "grad": grad, "dq": dq, "dk": dk, "dv": dv}
    _call_blocks("backward", tensors, lse, rule)


def is_native(q: Tensor, v: Tensor) -> bool:
    """Whether the code serves these: bf16 on a CPU that it is for, an even count of features, enough tokens."""
    fits = q.is_cpu and q.dtype == v.dtype == torch.bfloat16 and q.shape[-1] % 2 == 0 and v.shape[-1] % 2 == 0
    return fits and q.shape[2] >= _NATIVE_FROM and _block_library() is not None


def can_be_native() -> bool:
    """Whether there is a C++ compiler, and a processor with AVX-512."""
    return has_compiler() and "AVX512" in torch.backends.cpu.get_cpu_capability()


def has_compiler() -> bool:
    """Whether torch finds the C++ compiler that it would call."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is not None


@cache
def _block_library() -> Any:
    """The code, built, where it can be; otherwise None."""
    if not can_be_native():
        return None
    from torch._inductor.codecache import CppCodeCache

    try:
        library: Any = CppCodeCache.load(_BLOCK_CODE)
        library.forward.restype = library.backward.restype = library.works.restype = ctypes.c_bool
        return library if library.works() else None
    except Exception:  # private to torch, so anything may change in it; without it the blocks are Python's
        return None


def _call_blocks(name: str, tensors: dict[str, Tensor], lse: Tensor, rule: BlockRule) -> None:
    held = {key: x if x.stride(-1) == 1 else x.contiguous() for key, x in tensors.items()}
    views = (_view(held[key]) if key in held else _View() for key in _BLOCK_TENSORS)
    (batch, heads, tokens, features), values = tensors["q"].shape, tensors["v"].shape[-1]
    block = _SMALL_BLOCK if tokens <= _SHORT else _LARGE_BLOCK
    sizes = batch, heads, tokens, block, features, values, rule.window or 0
    call = _BlockCall(*sizes, *rule.numbers, *views, lse.data_ptr())
    done = getattr(_block_library(), name)(ctypes.byref(call), ctypes.c_bool(rule.capped), ctypes.c_bool(rule.clipped))
    assert done, "it was tried when it was built"


def _view(x: Tensor) -> _View:
    return _View(x.data_ptr(), *x.stride()[:3])

"""The C++ of the blocks of attention: what `native` builds and calls.

Names in it: C rows and columns of a block, S tokens up to whole blocks, K features of queries and keys, V of values.
"""

# torch rounds the result of a bf16 product to bf16 on the CPU; what it is built on gives fp32, which scores need.
BLOCK_CODE = """
#pragma GCC optimize("tree-loop-vectorize")  // torch builds its own vectors and turns this off
#define CPU_CAPABILITY_AVX512
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <immintrin.h>
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
  float *lse, *largest;
  int64_t blocks() const { return (tokens + block - 1) / block; }
  int64_t padded() const { return blocks() * block; }
  int64_t first_seen(int64_t row) const { return window ? row - window + 1 : 0; }
  int64_t last_seeing(int64_t column) const { return window ? column + window - 1 : padded(); }
};

inline uint32_t bits(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline uint32_t rounded(float x) { const uint32_t b = bits(x); return b + 0x7fffu + ((b >> 16) & 1u); }
inline uint16_t* raw(Number* x) { return reinterpret_cast<uint16_t*>(x); }
inline const uint16_t* raw(const Number* x) { return reinterpret_cast<const uint16_t*>(x); }

// Sixteen numbers; operators work on each.
using Lanes = __m512;
constexpr int64_t LANES = 16;
constexpr float LEAST = -1e30f;

inline Lanes every(float x) { return _mm512_set1_ps(x); }
inline Lanes load(const float* from) { return _mm512_loadu_ps(from); }
inline Lanes only(__mmask16 seen, Lanes x) { return _mm512_maskz_mov_ps(seen, x); }

inline Lanes load(const Number* from, __mmask16 seen) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(seen, from)), 16));
}

inline void store(Lanes x, Number* to) {
#ifdef __AVX512BF16__
  const __m256i y = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
#else
  const __m512i b = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), odd);
  const __m256i y = _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
#endif
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), y);
}

// Which of sixteen places from `start` on lie from `low` up to `high`.
inline __mmask16 between(int64_t low, int64_t high, int64_t start) {
  auto below = [](int64_t n) { return n <= 0 ? 0u : n >= LANES ? 0xffffu : (1u << n) - 1u; };
  return static_cast<__mmask16>(below(high - start) & ~below(low - start));
}

// e^x to 3e-6. Here and below, what is not a number stays so: of two operands the second is taken then.
inline Lanes power(Lanes x) {
  x *= 1.44269504f;
  const Lanes whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT), f = x - whole;
  Lanes y = every(0.00133336f);
  for (float term : {0.00961813f, 0.05550411f, 0.24022651f, 0.69314718f, 1.0f}) y = _mm512_fmadd_ps(y, f, every(term));
  return _mm512_scalef_ps(y, whole);
}

// 1 - 2 / (e^x + 1), with a step of Newton's for the quotient.
inline Lanes tanh_of_half(Lanes x) {
  const Lanes below = power(_mm512_min_ps(every(80.0f), x)) + 1.0f;
  const Lanes near = _mm512_rcp14_ps(below), part = near * _mm512_fnmadd_ps(below, near, every(2.0f));
  return _mm512_fnmadd_ps(part, every(2.0f), every(1.0f));
}

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

template <bool capped> inline Lanes score(Lanes product, const Call& c) {
  return capped ? c.cap * tanh_of_half(product * (2.0f * c.scale / c.cap)) : product * c.scale;
}

inline Lanes clip(Lanes stretched) { return _mm512_min_ps(every(1.0f), _mm512_max_ps(every(0.0f), stretched)); }

template <bool capped, bool clipped> struct Forward {
  const Call& c;
  const int64_t C, K, V, S;
  std::vector<Number> k_pairs, v_pairs, q, w, u;
  std::vector<float> s, sums, kept, most, norm, tops, shrunk;
  float product;  // the largest of a block of rows

  explicit Forward(const Call& call)
      : c(call), C(c.block), K(c.features), V(c.values), S(c.padded()), k_pairs(S * K), v_pairs(S * V), q(C * K),
        w(C * C), u(clipped ? C * C : 0), s(C * C), sums(C * V), kept(clipped ? C * V : 0), most(C), norm(C),
        tops(C), shrunk(C) {}

  // Rows of one part of the blocks of one head.
  void operator()(int64_t batch, int64_t head, int64_t part, int64_t parts) {
    feature_pairs(c.k.of(batch, head), c, K, q.data(), k_pairs.data());
    token_pairs(c.v.of(batch, head), c, V, v_pairs.data());
    for (int64_t start = part * C; start < c.tokens; start += parts * C) block(batch, head, start);
  }

  template <class Absorb> void each(int64_t start, const Absorb& absorb) {
    for (int64_t column = std::max<int64_t>(0, c.first_seen(start)) / C * C; column <= start; column += C) {
      brgemm(C, C, K, K, C, C, false, q.data(), k_pairs.data() + column * K, s.data(), true);
      if (absorb(start, column)) {
        brgemm(C, V, C, C, V, V, true, w.data(), v_pairs.data() + column * V, sums.data(), true);
        if (clipped) brgemm(C, V, C, C, V, V, true, u.data(), v_pairs.data() + column * V, kept.data(), true);
      }
    }
  }

  // The running softmax with the scores of a block; whether its weights are now to be summed.
  bool absorb(int64_t start, int64_t column) {
    for (int64_t i = 0; i < C; ++i) {
      const auto [low, high] = within(c.first_seen(start + i), start + i, column, C);
      Lanes top = every(LEAST);  // of the products, with which scores rise
      for (int64_t j = low / LANES * LANES; j < high; j += LANES)
        top = _mm512_mask_max_ps(top, between(low, high, j), top, load(&s[i * C + j]));
      tops[i] = _mm512_reduce_max_ps(top);
      if (start + i < c.tokens) product = std::max(product, tops[i]);
    }
    for (int64_t i = 0; i < C; i += LANES) {
      const Lanes before = load(&most[i]), now = _mm512_max_ps(before, score<capped>(load(&tops[i]), c));
      _mm512_storeu_ps(&most[i], now), _mm512_storeu_ps(&shrunk[i], power(before - now));
    }
    for (int64_t i = 0; i < C; ++i) {
      norm[i] = norm[i] * shrunk[i] + weigh(i, start, column);
      if (!clipped && shrunk[i] != 1.0f) for (int64_t j = 0; j < V; ++j) sums[i * V + j] *= shrunk[i];
    }
    return !clipped;
  }

  // The sum of a row's weights, which are kept unless a clip follows.
  float weigh(int64_t i, int64_t start, int64_t column) {
    const auto [low, high] = within(c.first_seen(start + i), start + i, column, C);
    const Lanes larger = every(most[i]);
    Lanes sum = every(0.0f);
    for (int64_t j = 0; j < (clipped ? high : C); j += LANES) {
      const __mmask16 seen = between(low, high, j);
      const Lanes weight = seen ? only(seen, power(score<capped>(load(&s[i * C + j]), c) - larger)) : every(0.0f);
      sum += weight;
      if (!clipped) store(weight, &w[i * C + j]);
    }
    return _mm512_reduce_add_ps(sum);
  }

  // Clipped weights, and what is left of them where the clip is a line; whether there are any, which is often not so.
  bool stretch(int64_t start, int64_t column) {
    __mmask16 found = 0;
    for (int64_t i = 0; i < C; ++i) {
      const auto [low, high] = within(c.first_seen(start + i), start + i, column, C);
      for (int64_t j = 0; j < C; j += LANES) {
        const __mmask16 seen = between(low, high, j);
        const Lanes weight = (c.zeta - c.gamma) * power(score<capped>(load(&s[i * C + j]), c) - every(most[i]));
        const Lanes stretched = weight + c.gamma, used = only(seen, clip(stretched));
        store(used, &w[i * C + j]);
        store(only(seen & _mm512_cmp_ps_mask(used, stretched, _CMP_EQ_OQ), weight), &u[i * C + j]);
        found |= _mm512_cmp_ps_mask(used, every(0.0f), _CMP_NEQ_UQ);
      }
    }
    return found;
  }

  void block(int64_t batch, int64_t head, int64_t start) {
    rows(c.q.of(batch, head), c, start, K, q.data());
    std::fill(most.begin(), most.end(), LEAST), std::fill(norm.begin(), norm.end(), 0.0f);
    product = LEAST;
    std::fill(sums.begin(), sums.end(), 0.0f), std::fill(kept.begin(), kept.end(), 0.0f);
    each(start, [&](int64_t row, int64_t column) { return absorb(row, column); });
    for (int64_t i = 0; i < C; ++i) {
      const float less = 1.0f / norm[i];
      most[i] += std::log(norm[i]);
      if (!clipped) for (int64_t j = 0; j < V; ++j) sums[i * V + j] *= less;
    }
    if (clipped) each(start, [&](int64_t row, int64_t column) { return stretch(row, column); });
    const View out = c.out.of(batch, head), inner = c.inner.of(batch, head);
    for (int64_t i = 0; i < std::min(C, c.tokens - start); ++i) {
      store(&sums[i * V], out.at(start + i), V);
      if (clipped) store(&kept[i * V], inner.at(start + i), V);
      c.lse[(batch * c.heads + head) * c.tokens + start + i] = most[i];
      if (std::isnan(most[i])) product = most[i];  // what is no number wins
    }
    c.largest[(batch * c.heads + head) * c.blocks() + start / C] = product;
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
      Lanes sum = every(0.0f);
      for (int64_t i = 0; i < V; i += LANES) {
        const __mmask16 there = between(0, V, i);
        sum = _mm512_fmadd_ps(load(grad.at(t) + i, there), load(inner.at(t) + i, there), sum);
      }
      mean[t] = _mm512_reduce_add_ps(sum);
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
    for (int64_t i = 0; i < C; i += LANES) {
      const __mmask16 seen = between(low, high, i);
      const Lanes product = load(&s[j * C + i]);
      const Lanes tanh = capped ? tanh_of_half(product * (2.0f * c.scale / c.cap)) : product;
      const Lanes weight = power((capped ? c.cap * tanh : product * c.scale) - load(&lse[row + i]));
      Lanes used = weight, rise = load(&d[j * C + i]);
      if (clipped) {
        const Lanes stretched = (c.zeta - c.gamma) * weight + c.gamma;
        used = clip(stretched);
        rise = only(_mm512_cmp_ps_mask(used, stretched, _CMP_EQ_OQ), rise * (c.zeta - c.gamma));
      }
      const Lanes fall = weight * (rise - load(&mean[row + i])) * c.scale;
      store(only(seen, used), &w[j * C + i]);
      store(only(seen, capped ? fall * (1.0f - tanh * tanh) : fall), &e[j * C + i]);
    }
  }
};

// What is recorded of a head's last queries: sums over their rows, or over the keys that they see.
template <bool capped, bool clipped> struct LastRows {
  const Call& c;
  const int64_t C, K, S, R;
  std::vector<Number> k_pairs, q;
  std::vector<float> s;

  LastRows(const Call& call, int64_t queries)
      : c(call), C(c.block), K(c.features), S(c.padded()), R(queries), k_pairs(S * K), q(C * K), s(R * S) {}

  void operator()(int64_t batch, int64_t head, float peak, double* sums) {
    feature_pairs(c.k.of(batch, head), c, K, q.data(), k_pairs.data());
    rows(c.q.of(batch, head), c, c.tokens - R, K, q.data());
    for (int64_t column = 0; column < S; column += C)
      brgemm(R, C, K, K, C, S, false, q.data(), k_pairs.data() + column * K, &s[column], true);
    for (int64_t i = 0; i < R; ++i) row(&s[i * S], c.tokens - R + i + 1, peak, sums);
  }

  void row(float* scores, int64_t seen, float peak, double* sums) {
    Lanes top = every(LEAST), saturated = every(0.0f), norm = every(0.0f), drop = every(0.0f);
    for (int64_t j = 0; j < seen; j += LANES) {
      const __mmask16 there = between(0, seen, j);
      const Lanes score = ::score<capped>(load(&scores[j]), c);
      if (capped) saturated += only(there, score * score);
      top = _mm512_mask_max_ps(top, there, top, score);
      _mm512_storeu_ps(&scores[j], score);
    }
    const Lanes most = every(_mm512_reduce_max_ps(top));
    for (int64_t j = 0; j < seen; j += LANES) {
      const Lanes below = load(&scores[j]) - most, weight = only(between(0, seen, j), power(below));
      norm += weight, drop += only(between(0, seen, j), weight * below);
      _mm512_storeu_ps(&scores[j], weight);
    }
    const float whole = _mm512_reduce_add_ps(norm);
    sums[0] += _mm512_reduce_add_ps(saturated) / (c.cap * c.cap);
    sums[1] += std::log(whole) - _mm512_reduce_add_ps(drop) / whole;
    sums[2] += 1.0f / whole > peak;  // the largest weight
    for (int64_t j = 0; clipped && j < seen; j += LANES) {
      const Lanes stretched = (c.zeta - c.gamma) / whole * load(&scores[j]) + c.gamma;
      const __mmask16 out = _mm512_cmp_ps_mask(stretched, every(0.0f), _CMP_LE_OQ) |
                            _mm512_cmp_ps_mask(stretched, every(1.0f), _CMP_GE_OQ);
      sums[3] += __builtin_popcount(out & between(0, seen, j));
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

// Records of saturation, entropy, one-hot rows and clipped weights of the last queries, of which a mean is known.
extern "C" bool last_rows(const Call& c, bool capped, bool clipped, int64_t queries, float peak, float* records) {
  const int64_t heads = c.batch * c.heads;
  std::vector<double> sums(4 * heads);
  const bool done = chosen(capped, clipped, [&](auto cap, auto clip) {
    return all(heads, [&](int64_t begin, int64_t end) {
      LastRows<cap, clip> head(c, queries);
      for (int64_t i = begin; i < end; ++i) head(i / c.heads, i % c.heads, peak, &sums[4 * i]);
    });
  });
  const double seen = queries * (c.tokens - queries) + queries * (queries + 1) / 2.0;
  for (int64_t kind = 0; kind < 4; ++kind) {
    double sum = 0;
    for (int64_t i = 0; i < heads; ++i) sum += sums[4 * i + kind];
    records[4 * kind] = sum, records[4 * kind + 1] = records[4 * kind + 2] = 0;
    records[4 * kind + 3] = heads * (kind == 1 || kind == 2 ? queries : seen);
  }
  return done;
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

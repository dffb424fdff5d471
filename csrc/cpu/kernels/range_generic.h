// The source of range_{scalar,avx2,avx512}.cpp. Minimum and maximum do not depend on order, so lanes, tiles and threads
// combine exactly; the sign of a zero does, and qparams and observers drop it.
#pragma once
#include <cstring>
#include <limits>

#include "cpu/kernels/range.h"
#include "cpu/kernels/runs.h"
#include "cpu/vec/vec.h"
#include "numerics/qparams.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

template <typename V>
struct Extremes {
  V lo, hi;
  int64_t finite = 0;
  TORCHQAT_INLINE void take(V x) {
    const auto ok = numerics::is_finite(x);
    lo = lane_min(lo, select(ok, x, lo));
    hi = lane_max(hi, select(ok, x, hi));
    finite += __builtin_popcount(numerics::mask_bits(ok));
  }
};

TORCHQAT_INLINE float not_a_number(float) { return std::numeric_limits<float>::quiet_NaN(); }
TORCHQAT_INLINE double not_a_number(double) { return std::numeric_limits<double>::quiet_NaN(); }
TORCHQAT_INLINE Bf16 not_a_number(Bf16) { return {0x7fc0}; }
TORCHQAT_INLINE Half not_a_number(Half) { return {0x7e00}; }

// n < V::size elements; the other lanes are NaN, which statistics leave out.
template <typename V, typename T>
TORCHQAT_INLINE V load_part(const T* in, int64_t n) {
  T part[V::size];
  for (int j = 0; j < V::size; ++j) part[j] = j < n ? in[j] : not_a_number(T{});
  return V::load(part);
}

// A run of elements with one scale. Returns how many were not finite.
template <typename V, typename T, typename S>
TORCHQAT_INLINE int64_t one_range(const T* in, int64_t n, S* lo, S* hi) {
  constexpr S inf = std::numeric_limits<S>::infinity();
  constexpr int ways = 4;
  Extremes<V> all{V(inf), V(-inf)};
  int64_t i = 0;
  if (n >= ways * V::size) {
    Extremes<V> e[ways] = {all, all, all, all};
    for (; i + ways * V::size <= n; i += ways * V::size) {
#pragma GCC unroll 4
      for (int w = 0; w < ways; ++w) e[w].take(V::load(in + i + w * V::size));
    }
    for (const auto& one : e) {
      all.lo = lane_min(all.lo, one.lo);
      all.hi = lane_max(all.hi, one.hi);
      all.finite += one.finite;
    }
  }
  for (; i + V::size <= n; i += V::size) all.take(V::load(in + i));
  if (i < n) all.take(load_part<V>(in + i, n - i));
  const S l = reduce_min(all.lo), h = reduce_max(all.hi);
  if (l < *lo) *lo = l;
  if (h > *hi) *hi = h;
  return n - all.finite;
}

// Neighbours with neighbouring scales: channels in the last place of memory. Returns how many were not finite.
template <typename V, typename T, typename S>
TORCHQAT_INLINE int64_t each_range(const T* in, int64_t n, S* lo, S* hi) {
  int64_t i = 0, finite = 0;
  for (; i + V::size <= n; i += V::size) {
    Extremes<V> e{V::load(lo + i), V::load(hi + i)};
    e.take(V::load(in + i));
    e.lo.store(lo + i);
    e.hi.store(hi + i);
    finite += e.finite;
  }
  int64_t bad = i - finite;
  for (; i < n; ++i) bad += one_range<V>(in + i, 1, lo + i, hi + i);
  return bad;
}

template <typename T, typename V>
int64_t min_max(const RangeArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  const T* in = static_cast<const T*>(a.in);
  S *lo = static_cast<S*>(a.lo), *hi = static_cast<S*>(a.hi);
  const Blocks& b = *a.blocks;
  int64_t bad = 0;
  const int inner = b.dims - 1;
  if (b.block[inner] == 1 && b.stride[inner] == 1) {
    Blocks rows = b;  // the same walk, a whole row at a time
    rows.block[inner] = rows.size[inner];
    for_runs(rows, begin, end, [&](int64_t at, int64_t n, int64_t index) {
      const int64_t first = index + at % b.size[inner];
      bad += each_range<V>(in + at, n, lo + first, hi + first);
    });
  } else {
    for_runs(b, begin, end,
             [&](int64_t at, int64_t n, int64_t index) { bad += one_range<V>(in + at, n, lo + index, hi + index); });
  }
  return bad;
}

template <typename V, typename S>
TORCHQAT_INLINE void qparams_array(const S* lo, const S* hi, int64_t n, int quant_min, int quant_max, bool symmetric, S* scale,
                                   int32_t* zero_point) {
  int64_t i = 0;
  for (; i + V::size <= n; i += V::size) {
    const auto q = numerics::qparams(V::load(lo + i), V::load(hi + i), static_cast<S>(quant_min), static_cast<S>(quant_max), symmetric);
    q.scale.store(scale + i);
    q.zero_point.store(zero_point + i);
  }
  if (i == n) return;
  S l[V::size], h[V::size], s[V::size];
  int32_t z[V::size];
  for (int j = 0; j < V::size; ++j) {
    l[j] = i + j < n ? lo[i + j] : S(0);
    h[j] = i + j < n ? hi[i + j] : S(0);
  }
  const auto q = numerics::qparams(V::load(l), V::load(h), static_cast<S>(quant_min), static_cast<S>(quant_max), symmetric);
  q.scale.store(s);
  q.zero_point.store(z);
  for (int j = 0; i + j < n; ++j) {
    scale[i + j] = s[j];
    zero_point[i + j] = z[j];
  }
}

inline void qparams_f32(const float* lo, const float* hi, int64_t n, int quant_min, int quant_max, bool symmetric, float* scale,
                        int32_t* zero_point) {
  qparams_array<numerics::Vec>(lo, hi, n, quant_min, quant_max, symmetric, scale, zero_point);
}
inline void qparams_f64(const double* lo, const double* hi, int64_t n, int quant_min, int quant_max, bool symmetric,
                        double* scale, int32_t* zero_point) {
  qparams_array<numerics::Wide>(lo, hi, n, quant_min, quant_max, symmetric, scale, zero_point);
}

}  // namespace torchqat::cpu

#define TORCHQAT_RANGE_KERNELS                                                                         \
  {                                                                                                    \
    {&min_max<float, numerics::Vec>, &min_max<Bf16, numerics::Vec>, &min_max<Half, numerics::Vec>,     \
     &min_max<double, numerics::Wide>},                                                                \
        &qparams_f32, &qparams_f64                                                                     \
  }

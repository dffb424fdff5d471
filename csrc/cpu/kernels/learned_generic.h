// The source of learned_{scalar,avx2,avx512}.cpp.
#pragma once
#include <cstring>

#include "cpu/kernels/learned.h"
#include "cpu/kernels/runs.h"
#include "cpu/vec/vec.h"
#include "numerics/learned.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

constexpr int lanes = 16;

// Sixteen partial sums, whatever the vector size: the same additions on every path.
template <typename V>
struct Lanes {
  V part[lanes / V::size];
  TORCHQAT_INLINE Lanes() {
#pragma GCC unroll 16
    for (auto& p : part) p = V(typename V::Scalar(0));
  }
  TORCHQAT_INLINE double sum() const {
    typename V::Scalar each[lanes];
    for (int j = 0; j < lanes; j += V::size) part[j / V::size].store(each + j);
    double total = 0;
    for (int j = 0; j < lanes; ++j) total += static_cast<double>(each[j]);
    return total;
  }
};

template <typename T>
TORCHQAT_INLINE const T* padded(const T* p, int64_t n, T* room) {
  if (n == lanes) return p;
  for (int j = 0; j < lanes; ++j) room[j] = j < n ? p[j] : T{};
  return room;
}

// At most `tile` elements with one scale. A last chunk is padded with zeros, which add nothing (dy = 0).
// shifts: whether the sum for the zero point is wanted.
template <typename Rule, bool shifts, typename V, typename T, bool stream>
TORCHQAT_INLINE void same_scale(const T* x, const T* dy, T* dx, int64_t n, V s, V z, V low, V high, double& ds, double& clipped) {
  Lanes<V> sum_ds, sum_clipped;
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t left = n - i < lanes ? n - i : lanes;
    T room_x[lanes], room_dy[lanes], room_dx[lanes];
    const T* px = padded(x + i, left, room_x);
    const T* pdy = padded(dy + i, left, room_dy);
    T* pdx = left == lanes ? dx + i : room_dx;
#pragma GCC unroll 16
    for (int j = 0; j < lanes; j += V::size) {
      const auto t = Rule::terms(V::load(px + j), V::load(pdy + j), s, z, low, high);
      if constexpr (stream) {
        t.dx.stream(pdx + j);
      } else {
        t.dx.store(pdx + j);
      }
      sum_ds.part[j / V::size] = sum_ds.part[j / V::size] + t.ds;
      if constexpr (shifts) sum_clipped.part[j / V::size] = sum_clipped.part[j / V::size] + t.clipped;
    }
    if (left < lanes) std::memcpy(dx + i, room_dx, static_cast<size_t>(left) * sizeof(T));
  }
  ds += sum_ds.sum();
  if constexpr (shifts) clipped += sum_clipped.sum();
}

template <typename Rule, typename T, typename V, bool shifts, bool stream>
void learned_range(const LearnedArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.dx);
  const S* scale = static_cast<const S*>(a.scale);
  const V low(static_cast<S>(a.quant_min)), high(static_cast<S>(a.quant_max));
  const auto zero_point = [&](int64_t index) -> S { return a.zero_point ? static_cast<S>(a.zero_point[index]) : S(0); };
  const auto add = [&](int64_t index, double ds, double clipped) {
    a.ds[index] += ds;
    if (a.dz != nullptr) a.dz[index] -= static_cast<double>(scale[index]) * clipped;
  };
  if (a.blocks->aligned) {
    for_runs(*a.blocks, begin, end, [&](int64_t at, int64_t n, int64_t index) {
      const V s(scale[index]), z(zero_point(index));
      // Cut where the tiles of the whole tensor are cut, so that the sums do not depend on who calls.
      for (int64_t next; n > 0; at += next, n -= next) {
        next = tile - at % tile < n ? tile - at % tile : n;
        double ds = 0, clipped = 0;
        same_scale<Rule, shifts, V, T, stream>(x + at, dy + at, dx + at, next, s, z, low, high, ds, clipped);
        add(index, ds, clipped);
      }
    });
    return;
  }
  S scales[tile], zero_points[tile], ds[tile], clipped[tile];
  for (int64_t at = begin, n; at < end; at += n) {
    n = tile - at % tile < end - at ? tile - at % tile : end - at;
    for_runs(*a.blocks, at, at + n, [&](int64_t position, int64_t length, int64_t index) {
      const S s = scale[index], z = zero_point(index);
      for (int64_t i = 0; i < length; ++i) scales[position - at + i] = s;
      for (int64_t i = 0; i < length; ++i) zero_points[position - at + i] = z;
    });
    const int64_t whole = n - n % lanes;
    for (int64_t i = n; i < whole + lanes && i < tile; ++i) {
      scales[i] = S(1);
      zero_points[i] = S(0);
    }
    for (int64_t i = 0; i < n; i += lanes) {
      const int64_t left = n - i < lanes ? n - i : lanes;
      T room_x[lanes], room_dy[lanes], room_dx[lanes];
      const T* px = padded(x + at + i, left, room_x);
      const T* pdy = padded(dy + at + i, left, room_dy);
      T* pdx = left == lanes ? dx + at + i : room_dx;
      for (int j = 0; j < lanes; j += V::size) {
        const auto t = Rule::terms(V::load(px + j), V::load(pdy + j), V::load(scales + i + j),
                                               V::load(zero_points + i + j), low, high);
        t.dx.store(pdx + j);
        t.ds.store(ds + i + j);
        t.clipped.store(clipped + i + j);
      }
      if (left < lanes) std::memcpy(dx + at + i, room_dx, static_cast<size_t>(left) * sizeof(T));
    }
    for_runs(*a.blocks, at, at + n, [&](int64_t position, int64_t length, int64_t index) {
      double sum_ds = 0, sum_clipped = 0;
      for (int64_t i = position - at; i < position - at + length; ++i) {
        sum_ds += static_cast<double>(ds[i]);
        sum_clipped += static_cast<double>(clipped[i]);
      }
      add(index, sum_ds, sum_clipped);
    });
  }
}

template <typename Rule, typename T, typename V>
void learned(const LearnedArgs& a, int64_t begin, int64_t end) {
  if (a.dz != nullptr) {
    a.stream ? learned_range<Rule, T, V, true, true>(a, begin, end) : learned_range<Rule, T, V, true, false>(a, begin, end);
  } else {
    a.stream ? learned_range<Rule, T, V, false, true>(a, begin, end) : learned_range<Rule, T, V, false, false>(a, begin, end);
  }
}

}  // namespace torchqat::cpu

#define TORCHQAT_LEARNED_ROW(Rule)                                                      \
  {&learned<Rule, float, numerics::Vec>, &learned<Rule, Bf16, numerics::Vec>,           \
   &learned<Rule, Half, numerics::Vec>, &learned<Rule, double, numerics::Wide>}
#define TORCHQAT_LEARNED_KERNELS {TORCHQAT_LEARNED_ROW(numerics::LsqRule), TORCHQAT_LEARNED_ROW(numerics::PactRule)}

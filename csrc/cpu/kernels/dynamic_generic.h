// The source of dynamic_{scalar,avx2,avx512}.cpp: ranges of a group of blocks, their scales in lanes, then the blocks.
#pragma once
#include <limits>

#include "cpu/kernels/affine_generic.h"
#include "cpu/kernels/dynamic.h"
#include "numerics/bits.h"
#include "numerics/qparams.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// The range of what is finite in a block, widened to +-max|x| for symmetric scales; returns how many elements are not finite.
template <bool symmetric, typename T, typename V, typename S>
TORCHQAT_INLINE int64_t finite_range(const T* in, int64_t n, S* lo, S* hi) {
  constexpr S inf = std::numeric_limits<S>::infinity(), largest = std::numeric_limits<S>::max();
  V least(inf), most(-inf), magnitude(S(0));
  const auto take = [&](V x) {
    if constexpr (!symmetric) {
      least = lane_min(x, least);
      most = lane_max(x, most);
    }
    magnitude = bits_max(magnitude, lane_abs(x));
  };
  int64_t i = 0;
  for (; i + V::size <= n; i += V::size) take(V::load(in + i));
  if (i < n) {  // repeats of the last element change no range
    T last[V::size];
    for (int j = 0; j < V::size; ++j) last[j] = in[i + j < n ? i + j : n - 1];
    take(V::load(last));
  }
  const S reach = reduce_bits_max(magnitude);
  *lo = symmetric ? -reach : reduce_min(least);
  *hi = symmetric ? reach : reduce_max(most);
  if (reach <= largest) [[likely]] return 0;
  // Something is not finite: again, one by one.
  int64_t bad = 0;
  *lo = inf;
  *hi = -inf;
  for (i = 0; i < n; ++i) {
    T one[V::size];
    for (int j = 0; j < V::size; ++j) one[j] = in[i];
    const V x = V::load(one);
    const S value = reduce_max(x);
    if (numerics::mask_bits(in_range(x, V(-largest), V(largest))) == 0) {
      ++bad;
      continue;
    }
    *lo = numerics::lane_min(value, *lo);
    *hi = numerics::lane_max(value, *hi);
  }
  return bad;
}

// fixed: the width where it is known here and every block is full, else 0.
template <typename T, typename V, bool masked, bool stream, bool symmetric, int fixed>
int64_t dynamic_blocks(const DynamicArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  constexpr int group = 64;
  const T* in = static_cast<const T*>(a.in);
  T* out = static_cast<T*>(a.out);
  const S quant_min = static_cast<S>(a.quant_min), quant_max = static_cast<S>(a.quant_max);
  const Grid<V> grid{V(quant_min), V(quant_max)};
  // The grid of symmetric blocks, whose zero points are 0; each has a scale of its own.
  [[maybe_unused]] const numerics::SharedScale shared(1.0f, 0.0f, static_cast<float>(a.quant_min), static_cast<float>(a.quant_max));
  const int64_t width = fixed ? fixed : a.width, many = width >= 4096 ? 1 : 4096 / width, step = many < group ? many : group;
  S lo[group], hi[group];  // then scale and zero point
  int64_t bad = 0;
  const auto length = [&](int64_t at) { return fixed ? fixed : a.numel - at < width ? a.numel - at : width; };
  for (int64_t first = begin; first < end; first += step) {
    const int64_t count = end - first < step ? end - first : step;
    for (int64_t b = 0; b < count; ++b) {
      const int64_t at = (first + b) * width;
      bad += finite_range<symmetric, T, V>(in + at, length(at), lo + b, hi + b);
    }
    for (int64_t b = count; b % V::size != 0; ++b) lo[b] = hi[b] = S(0);
    for (int64_t b = 0; b < count; b += V::size) {
      const auto q = numerics::qparams<V>(V::load(lo + b), V::load(hi + b), quant_min, quant_max, symmetric);
      q.scale.store(lo + b);
      q.zero_point.store(hi + b);
    }
    const auto exact = [&](int64_t b) {
      const int64_t at = (first + b) * width;
      const Same<V> p{V(lo[b]), V(hi[b])};
      run_chunks<FakeQuantize<T>, V, masked, stream>(in + at, out + at, masked ? a.mask + at / 8 : nullptr, length(at), p, grid);
    };
    int64_t done = 0;
    if constexpr (shares_scale<V> && symmetric && fixed > 0 && fixed < shared_step) {
      constexpr int blocks = shared_step / fixed;
      S reciprocal[group];
      bool fits = shared.fits;
      for (int64_t b = 0; b < count; b += V::size) {
        const V r = V(S(1)) / V::load(lo + b);
        r.store(reciprocal + b);
        fits = fits && numerics::mask_bits(in_range(r, V(shared.smallest), V(shared.largest))) == (1u << V::size) - 1u;
      }
      if (fits && count >= blocks) {
        done = count - count % blocks;
        const int64_t at = first * width;
        run_shared<masked, stream>(
            in + at, out + at, masked ? a.mask + at / 8 : nullptr, done * width, shared, ScalePerBlock<fixed>{lo, reciprocal},
            [&](int64_t i) {
              for (int64_t b = i / fixed; b < i / fixed + blocks; ++b) exact(b);
            },
            Unseen{});
      }
    } else if constexpr (shares_scale<V>) {
      for (; done < count; ++done) {
        const int64_t at = (first + done) * width;
        const AffineArgs affine{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, a.quant_min, a.quant_max, stream};
        run_same<FakeQuantize<T>, V, masked, stream>(in + at, out + at, masked ? a.mask + at / 8 : nullptr, length(at), lo[done],
                                                     hi[done], affine, grid);
      }
    }
    for (; done < count; ++done) exact(done);
  }
  return bad;
}

template <typename T, typename V, bool masked, bool stream>
int64_t dynamic_width(const DynamicArgs& a, int64_t begin, int64_t end) {
  if (!a.symmetric) return dynamic_blocks<T, V, masked, stream, false, 0>(a, begin, end);
  if (a.width == 32 && a.numel % 32 == 0) return dynamic_blocks<T, V, masked, stream, true, 32>(a, begin, end);
  return dynamic_blocks<T, V, masked, stream, true, 0>(a, begin, end);
}

template <typename T, typename V>
int64_t dynamic(const DynamicArgs& a, int64_t begin, int64_t end) {
  if (a.mask != nullptr) {
    return a.stream ? dynamic_width<T, V, true, true>(a, begin, end) : dynamic_width<T, V, true, false>(a, begin, end);
  }
  return a.stream ? dynamic_width<T, V, false, true>(a, begin, end) : dynamic_width<T, V, false, false>(a, begin, end);
}

// What a run is shown to be: its range, and whether all of it is finite.
struct RangeSeen {
  mutable numerics::Vec lo{std::numeric_limits<float>::infinity()}, hi{-std::numeric_limits<float>::infinity()}, flaw{0.0f};
  TORCHQAT_INLINE void operator()(numerics::Vec x) const {
    lo = lane_min(x, lo);
    hi = lane_max(x, hi);
    flaw = lane_fma(x, numerics::Vec(0.0f), flaw);  // NaN for good once x is infinite or NaN
  }
};

template <typename T, bool masked, bool stream>
bool observed_range(const AffineArgs& a, int64_t begin, int64_t end, float* lo, float* hi) {
  using V = numerics::Vec;
  const T* in = static_cast<const T*>(a.in) + begin;
  T* out = static_cast<T*>(a.out) + begin;
  uint8_t* mask = masked ? a.mask + begin / 8 : nullptr;
  const float scale = *static_cast<const float*>(a.scale), zero_point = a.zero_point ? static_cast<float>(*a.zero_point) : 0.0f;
  const auto grid = IntegerGridOp::grid<V>(a);
  const numerics::SharedScale shared(scale, zero_point, static_cast<float>(a.quant_min), static_cast<float>(a.quant_max));
  const int64_t n = end - begin, done = shared.fits ? n - n % shared_step : 0;
  const RangeSeen seen;
  const Same<V> p{V(scale), V(zero_point)};
  const auto divide = [&](int64_t at) {
    run_chunks<FakeQuantize<T>, V, masked, stream>(in + at, out + at, masked ? mask + at / 8 : nullptr, shared_step, p, grid);
  };
  run_one_scale<masked, stream>(in, out, mask, done, shared, divide, seen);
  float least = reduce_min(seen.lo), most = reduce_max(seen.hi);
  bool finite = numerics::mask_bits(in_range(seen.flaw, V(0.0f), V(0.0f))) == (1u << V::size) - 1u;
  if (done < n) {
    float rest_lo, rest_hi;
    finite = finite_range<false, T, V>(in + done, n - done, &rest_lo, &rest_hi) == 0 && finite;
    least = numerics::lane_min(rest_lo, least);
    most = numerics::lane_max(rest_hi, most);
    run_chunks<FakeQuantize<T>, V, masked, stream>(in + done, out + done, masked ? mask + done / 8 : nullptr, n - done, p, grid);
  }
  if (!finite) return false;
  *lo = numerics::lane_min(least, *lo);
  *hi = numerics::lane_max(most, *hi);
  return true;
}

template <typename T>
bool observed(const AffineArgs& a, int64_t begin, int64_t end, float* lo, float* hi) {
  if (a.mask != nullptr) {
    return a.stream ? observed_range<T, true, true>(a, begin, end, lo, hi) : observed_range<T, true, false>(a, begin, end, lo, hi);
  }
  return a.stream ? observed_range<T, false, true>(a, begin, end, lo, hi) : observed_range<T, false, false>(a, begin, end, lo, hi);
}

template <typename T>
constexpr auto observed_kernel() -> bool (*)(const AffineArgs&, int64_t, int64_t, float*, float*) {
  if constexpr (shares_scale<numerics::Vec>) {
    return &observed<T>;
  } else {
    return nullptr;
  }
}

}  // namespace torchqat::cpu

// Entries in the order of Float.
#define TORCHQAT_DYNAMIC_KERNELS                                                                                      \
  {{&dynamic<float, numerics::Vec>, &dynamic<Bf16, numerics::Vec>, &dynamic<Half, numerics::Vec>,                     \
    &dynamic<double, numerics::Wide>},                                                                                \
   {observed_kernel<float>(), observed_kernel<Bf16>(), observed_kernel<Half>()}}

// The source of float_grid_{scalar,avx2,avx512}.cpp. Scales given: the driver of affine_generic.h with another operation.
// Scales from the data: a block is read twice, the second time from the first-level cache or from registers.
#pragma once
#include "cpu/kernels/affine_generic.h"
#include "cpu/kernels/float_grid.h"
#include "numerics/minifloat.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// A power-of-two scale can multiply by its inverse: the product is exactly the quotient.
template <bool power_of_two, typename T, typename V>
TORCHQAT_INLINE uint32_t round_vector(const T* in, T* out, V scale, V inverse, const numerics::MiniFloat<V>& f, bool stream) {
  const V x = V::load(in);
  const V u = power_of_two ? x * inverse : x / scale;
  const V y = numerics::round_to_format(u, f) * scale;
  if (stream) {
    y.stream(out);
  } else {
    y.store(out);
  }
  return numerics::mask_bits(numerics::passes_gradient(u, f));
}

template <typename T>
struct FloatGridOp {
  using In = T;
  using Out = T;
  using Args = FloatGridArgs;
  static constexpr bool masks = true;
  template <typename V>
  static TORCHQAT_INLINE numerics::MiniFloat<V> grid(const Args& a) {
    return numerics::mini_float<V, typename V::Scalar>(numerics::format_specs[static_cast<int>(a.format)]);
  }
  template <bool stream, typename V>
  static TORCHQAT_INLINE uint32_t apply(const In* in, Out* out, V scale, V, const numerics::MiniFloat<V>& f) {
    return round_vector<false>(in, out, scale, scale, f, stream);
  }
};

template <typename T, typename V>
void float_grid(const FloatGridArgs& a, int64_t begin, int64_t end) {
  affine<FloatGridOp<T>, V>(a, begin, end);
}

// Largest magnitude by bit pattern. With finite_only, what is not finite counts as 0.
template <bool finite_only, typename T, typename V, typename S>
TORCHQAT_INLINE S block_absmax(const T* in, int64_t n) {
  const V largest(std::numeric_limits<S>::max()), zero(S(0));
  const auto magnitude = [&](const T* p) {
    const V a = lane_abs(V::load(p));
    if constexpr (finite_only) return select(in_range(a, zero, largest), a, zero);
    return a;
  };
  V most = zero;
  int64_t i = 0;
  for (; i + V::size <= n; i += V::size) most = bits_max(most, magnitude(in + i));
  if (i < n) {
    T last[V::size] = {};
    std::memcpy(last, in + i, static_cast<size_t>(n - i) * sizeof(T));
    most = bits_max(most, magnitude(last));
  }
  return reduce_bits_max(most);
}

// Position and length of each block of a range, in order.
struct BlockWalk {
  int64_t columns, block, column, at;
  TORCHQAT_INLINE BlockWalk(const FloatBlockArgs& a, int64_t begin)
      : columns(a.columns), block(a.block), column(begin % a.blocks_per_row() * a.block),
        at(begin / a.blocks_per_row() * a.columns + column) {}
  TORCHQAT_INLINE int64_t length() const { return columns - column < block ? columns - column : block; }
  TORCHQAT_INLINE void next() {
    const int64_t n = length();
    at += n;
    column += n;
    if (column == columns) column = 0;
  }
};

// Scales of blocks are computed a group at a time, in lanes. Arrays are padded to whole vectors.
constexpr int group = 64;

// MX: any value that is not finite makes the block NaN. NVFP4: such values are left out, as in all statistics.
template <bool mx, int fixed, typename T, typename V, typename S>
TORCHQAT_INLINE void scales_of_blocks(const FloatBlockArgs& a, BlockWalk walk, int64_t count, S* scale) {
  const T* in = static_cast<const T*>(a.in);
  for (int64_t b = 0; b < count; ++b) {
    scale[b] = block_absmax<!mx, T, V, S>(in + walk.at, fixed ? fixed : walk.length());
    walk.next();
  }
  for (int64_t b = count; b % V::size != 0; ++b) scale[b] = S(0);
  if constexpr (mx) {
    const auto grid = numerics::mx_grid<V, S>(numerics::format_specs[static_cast<int>(a.format)], a.rounding);
    for (int64_t b = 0; b < count; b += V::size) numerics::mx_scale<S>(V::load(scale + b), grid).store(scale + b);
  } else {
    const auto e4m3 = numerics::mini_float<V, S>(numerics::format_specs[static_cast<int>(numerics::FloatFormat::e4m3fn)]);
    const V tensor_scale(*static_cast<const S*>(a.tensor_scale));
    for (int64_t b = 0; b < count; b += V::size) numerics::nvfp4_scale<S>(V::load(scale + b), tensor_scale, e4m3).store(scale + b);
  }
}

// fixed: the block size where it is known here and every block is full, else 0.
template <bool mx, int fixed, typename T, typename V>
void quantize_blocks(const FloatBlockArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  const auto format = numerics::mini_float<V, S>(numerics::format_specs[static_cast<int>(a.format)]);
  const T* in = static_cast<const T*>(a.in);
  T* out = static_cast<T*>(a.out);
  // About 4096 elements a group, so that the second reading hits the first-level cache.
  const int64_t many = a.block >= 4096 ? 1 : 4096 / a.block, step = many < group ? many : group;
  S scale[group];
  BlockWalk walk(a, begin);
  for (int64_t first = begin; first < end; first += step) {
    const int64_t count = end - first < step ? end - first : step;
    scales_of_blocks<mx, fixed, T, V>(a, walk, count, scale);
    for (int64_t b = 0; b < count; ++b) {
      const int64_t at = walk.at, n = fixed ? fixed : walk.length();
      walk.next();
      const V scales(scale[b]), inverse(mx ? S(1) / scale[b] : S(0));
      for (int64_t i = at; i < at + n; i += chunk) {
        uint32_t bits = 0;
#pragma GCC unroll 16
        for (int j = 0; j < chunk; j += V::size) {
          bits |= round_vector<mx>(in + i + j, out + i + j, scales, inverse, format, a.stream) << j;
        }
        if (a.mask != nullptr) put_mask(a.mask + i / 8, bits, chunk);
      }
    }
  }
}

template <typename T, typename V>
void fake_quantize_blocks(const FloatBlockArgs& a, int64_t begin, int64_t end) {
  const bool full = a.columns % a.block == 0;
  if (a.tensor_scale != nullptr) {
    full && a.block == 16 ? quantize_blocks<false, 16, T, V>(a, begin, end) : quantize_blocks<false, 0, T, V>(a, begin, end);
  } else {
    full && a.block == 32 ? quantize_blocks<true, 32, T, V>(a, begin, end) : quantize_blocks<true, 0, T, V>(a, begin, end);
  }
}

template <typename T, typename V>
void block_scales(const FloatBlockArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  S* out = static_cast<S*>(a.scale);
  S scale[group];
  BlockWalk walk(a, begin);
  for (int64_t first = begin; first < end; first += group) {
    const int64_t count = end - first < group ? end - first : group;
    if (a.tensor_scale != nullptr) {
      scales_of_blocks<false, 0, T, V>(a, walk, count, scale);
    } else {
      scales_of_blocks<true, 0, T, V>(a, walk, count, scale);
    }
    for (int64_t b = 0; b < count; ++b) {
      out[first + b] = scale[b];
      walk.next();
    }
  }
}

template <typename T, typename V>
double finite_absmax(const void* in, int64_t n) {
  return block_absmax<true, T, V, typename V::Scalar>(static_cast<const T*>(in), n);
}

}  // namespace torchqat::cpu

// Entries in the order of Float.
#define TORCHQAT_FLOAT_ROW(kernel)                                                                                    \
  {&kernel<float, numerics::Vec>, &kernel<Bf16, numerics::Vec>, &kernel<Half, numerics::Vec>, &kernel<double, numerics::Wide>}
#define TORCHQAT_FLOAT_GRID_KERNELS                                                                                   \
  {TORCHQAT_FLOAT_ROW(float_grid), TORCHQAT_FLOAT_ROW(block_scales), TORCHQAT_FLOAT_ROW(fake_quantize_blocks),        \
   TORCHQAT_FLOAT_ROW(finite_absmax)}

// The source of affine_{scalar,avx2,avx512}.cpp: loops over Vec (or Wide for float64). Work goes in chunks of 16 elements,
// two mask bytes; a last partial chunk goes through a padded buffer. Where scales change inside a chunk they are first
// spread over a tile, one per element.
#pragma once
#include <cstring>

#include "cpu/kernels/affine.h"
#include "cpu/kernels/runs.h"
#include "cpu/kernels/shared_scale_generic.h"
#include "cpu/vec/keep16.h"
#include "cpu/vec/vec.h"
#include "numerics/affine.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

constexpr int chunk = 16;

template <typename V>
struct Grid {
  V quant_min, quant_max;
};

struct IntegerGridOp {
  using Args = AffineArgs;
  template <typename V>
  static TORCHQAT_INLINE Grid<V> grid(const Args& a) {
    using S = typename V::Scalar;
    return {V(static_cast<S>(a.quant_min)), V(static_cast<S>(a.quant_max))};
  }
};

// One vector of each operation; the result says which lanes pass the gradient.
template <typename T>
struct FakeQuantize : IntegerGridOp {
  using In = T;
  using Out = T;
  static constexpr bool masks = true;
  template <bool stream, typename V>
  static TORCHQAT_INLINE uint32_t apply(const In* in, Out* out, V scale, V zero_point, const Grid<V>& g) {
    const V level = numerics::affine_level(V::load(in), scale, zero_point);
    const V y = numerics::affine_value(numerics::clamp_level(level, g.quant_min, g.quant_max), scale, zero_point);
    if constexpr (stream) {
      y.stream(out);
    } else {
      y.store(out);
    }
    return numerics::mask_bits(in_range(level, g.quant_min, g.quant_max));
  }
};

template <typename T, typename C>
struct Quantize : IntegerGridOp {
  using In = T;
  using Out = C;
  static constexpr bool masks = false;
  template <bool stream, typename V>
  static TORCHQAT_INLINE uint32_t apply(const In* in, Out* out, V scale, V zero_point, const Grid<V>& g) {
    const V code = numerics::affine_code(V::load(in), scale, zero_point, g.quant_min, g.quant_max);
    numerics::storable_code(code, zero_point).store(out);
    return 0;
  }
};

template <typename T, typename C>
struct Dequantize : IntegerGridOp {
  using In = C;
  using Out = T;
  static constexpr bool masks = false;
  template <bool stream, typename V>
  static TORCHQAT_INLINE uint32_t apply(const In* in, Out* out, V scale, V zero_point, const Grid<V>&) {
    numerics::affine_value(V::load(in), scale, zero_point).store(out);
    return 0;
  }
};

// Where a lane's scale and zero point come from: one for all, or an array element per lane.
template <typename V>
struct Same {
  V scale, zero_point;
  TORCHQAT_INLINE V scale_at(int64_t) const { return scale; }
  TORCHQAT_INLINE V zero_point_at(int64_t) const { return zero_point; }
};
template <typename V>
struct Each {
  const typename V::Scalar *scale, *zero_point;
  TORCHQAT_INLINE V scale_at(int64_t i) const { return V::load(scale + i); }
  TORCHQAT_INLINE V zero_point_at(int64_t i) const { return V::load(zero_point + i); }
};

TORCHQAT_INLINE void put_mask(uint8_t* mask, uint32_t bits, int n) {
  mask[0] = static_cast<uint8_t>(bits);
  if (n > 8) mask[1] = static_cast<uint8_t>(bits >> 8);
}

template <typename Op, typename V, bool masked, bool stream, typename Params, typename G>
TORCHQAT_INLINE void run_chunks(const typename Op::In* in, typename Op::Out* out, uint8_t* mask, int64_t n, const Params& p,
                                const G& g) {
  int64_t i = 0;
  for (; i + chunk <= n; i += chunk) {
    uint32_t bits = 0;
#pragma GCC unroll 16
    for (int j = 0; j < chunk; j += V::size) {
      bits |= Op::template apply<stream>(in + i + j, out + i + j, p.scale_at(i + j), p.zero_point_at(i + j), g) << j;
    }
    if constexpr (masked) put_mask(mask + i / 8, bits, chunk);
  }
  if (i == n) return;
  const int left = static_cast<int>(n - i);
  typename Op::In padded[chunk] = {};
  typename Op::Out result[chunk];
  std::memcpy(padded, in + i, static_cast<size_t>(left) * sizeof(padded[0]));
  uint32_t bits = 0;
  for (int j = 0; j < chunk; j += V::size) {
    bits |= Op::template apply<false>(padded + j, result + j, p.scale_at(i + j), p.zero_point_at(i + j), g) << j;
  }
  std::memcpy(out + i, result, static_cast<size_t>(left) * sizeof(result[0]));
  if constexpr (masked) put_mask(mask + i / 8, bits & ((1u << left) - 1u), left);
}

template <typename Op>
constexpr bool is_fake_quantize = false;
template <typename T>
constexpr bool is_fake_quantize<FakeQuantize<T>> = true;

// One scale for all n elements.
template <typename Op, typename V, bool masked, bool stream, typename G>
TORCHQAT_INLINE void run_same(const typename Op::In* in, typename Op::Out* out, uint8_t* mask, int64_t n, typename V::Scalar scale,
                              typename V::Scalar zero_point, const typename Op::Args& a, const G& grid) {
  const Same<V> p{V(scale), V(zero_point)};
  int64_t done = 0;
  if constexpr (is_fake_quantize<Op> && shares_scale<V>) {
    const numerics::SharedScale shared(scale, zero_point, static_cast<float>(a.quant_min), static_cast<float>(a.quant_max));
    if (n >= shared_step && shared.fits) {
      done = n - n % shared_step;
      const auto divide = [&](int64_t at) {
        run_chunks<Op, V, masked, stream>(in + at, out + at, masked ? mask + at / 8 : nullptr, shared_step, p, grid);
      };
      run_one_scale<masked, stream>(in, out, mask, done, shared, divide, Unseen{});
    }
  }
  if (done < n) run_chunks<Op, V, masked, stream>(in + done, out + done, masked ? mask + done / 8 : nullptr, n - done, p, grid);
}

template <typename Op, typename V, bool masked, bool stream>
void affine_range(const typename Op::Args& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  const auto* in = static_cast<const typename Op::In*>(a.in);
  auto* out = static_cast<typename Op::Out*>(a.out);
  const S* scale = static_cast<const S*>(a.scale);
  const auto grid = Op::template grid<V>(a);
  const auto zero_point = [&](int64_t index) -> S { return a.zero_point ? static_cast<S>(a.zero_point[index]) : S(0); };
  const auto same = [&](int64_t at, int64_t n, int64_t index) {
    run_same<Op, V, masked, stream>(in + at, out + at, masked ? a.mask + at / 8 : nullptr, n, scale[index], zero_point(index), a,
                                    grid);
  };
  if (a.blocks->aligned) {
    for_runs(*a.blocks, begin, end, same);
    return;
  }
  // Padded by a chunk, so that the lanes past the last element divide by 1.
  S scales[tile + chunk], zero_points[tile + chunk];
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    int64_t runs = 0, only = 0;
    for_runs(*a.blocks, at, at + n, [&](int64_t position, int64_t length, int64_t index) {
      const S s = scale[index], z = zero_point(index);
      S *to = scales + (position - at), *to_z = zero_points + (position - at);
      for (int64_t i = 0; i < length; ++i) to[i] = s;
      for (int64_t i = 0; i < length; ++i) to_z[i] = z;
      only = index;
      ++runs;
    });
    if (runs == 1) {
      same(at, n, only);
      continue;
    }
    for (int i = 0; i < chunk; ++i) {
      scales[n + i] = S(1);
      zero_points[n + i] = S(0);
    }
    const Each<V> p{scales, zero_points};
    run_chunks<Op, V, masked, stream>(in + at, out + at, masked ? a.mask + at / 8 : nullptr, n, p, grid);
  }
}

template <typename Op, typename V>
void affine(const typename Op::Args& a, int64_t begin, int64_t end) {
  if constexpr (Op::masks) {
    if (a.mask != nullptr) {
      a.stream ? affine_range<Op, V, true, true>(a, begin, end) : affine_range<Op, V, true, false>(a, begin, end);
    } else {
      a.stream ? affine_range<Op, V, false, true>(a, begin, end) : affine_range<Op, V, false, false>(a, begin, end);
    }
  } else {
    affine_range<Op, V, false, false>(a, begin, end);
  }
}

template <bool stream>
TORCHQAT_INLINE int64_t keep_halves(const AffineArgs& a, int64_t begin, int64_t end) {
  const auto* in = static_cast<const uint16_t*>(a.in);
  auto* out = static_cast<uint16_t*>(a.out);
  int64_t i = begin;
  for (; i + 32 <= end; i += 32) {
    run_ahead<stream, 64>(in + i, out + i);
    uint32_t bits;
    std::memcpy(&bits, a.mask + i / 8, sizeof(bits));
    keep16<stream>(in + i, out + i, bits);
  }
  return i;
}

template <typename T, typename V, bool stream>
TORCHQAT_INLINE void keep_where_set(const AffineArgs& a, int64_t begin, int64_t end) {
  const T* in = static_cast<const T*>(a.in);
  T* out = static_cast<T*>(a.out);
  const V zero(typename V::Scalar(0));
  int64_t i = begin;
  if constexpr (sizeof(T) == 2) i = keep_halves<stream>(a, begin, end);
  for (; i + chunk <= end; i += chunk) {
    run_ahead<stream, chunk * sizeof(T)>(in + i, out + i);
    const uint32_t bits = a.mask[i / 8] | static_cast<uint32_t>(a.mask[i / 8 + 1]) << 8;
#pragma GCC unroll 16
    for (int j = 0; j < chunk; j += V::size) {
      const V dx = select(V::from_bits(bits >> j), V::load(in + i + j), zero);
      if constexpr (stream) {
        dx.stream(out + i + j);
      } else {
        dx.store(out + i + j);
      }
    }
  }
  for (; i < end; ++i) out[i] = (a.mask[i / 8] >> (i % 8)) & 1 ? in[i] : T{};
}

template <typename T, typename V>
void apply_mask(const AffineArgs& a, int64_t begin, int64_t end) {
  a.stream ? keep_where_set<T, V, true>(a, begin, end) : keep_where_set<T, V, false>(a, begin, end);
}

template <typename T, typename C>
constexpr auto quantize_kernel() {
  using V = std::conditional_t<std::is_same_v<T, double>, numerics::Wide, numerics::Vec>;
  return &affine<Quantize<T, C>, V>;
}
template <typename T, typename C>
constexpr auto dequantize_kernel() {
  using V = std::conditional_t<std::is_same_v<T, double>, numerics::Wide, numerics::Vec>;
  return &affine<Dequantize<T, C>, V>;
}

}  // namespace torchqat::cpu

// Entries in the order of Float and Code.
#define TORCHQAT_CODE_ROW(kernel, T) \
  {kernel<T, int8_t>(), kernel<T, uint8_t>(), kernel<T, int16_t>(), kernel<T, int32_t>()}
#define TORCHQAT_AFFINE_KERNELS                                                                                       \
  {                                                                                                                   \
    {&affine<FakeQuantize<float>, numerics::Vec>, &affine<FakeQuantize<Bf16>, numerics::Vec>,                         \
     &affine<FakeQuantize<Half>, numerics::Vec>, &affine<FakeQuantize<double>, numerics::Wide>},                      \
        {TORCHQAT_CODE_ROW(quantize_kernel, float), TORCHQAT_CODE_ROW(quantize_kernel, Bf16),                         \
         TORCHQAT_CODE_ROW(quantize_kernel, Half), TORCHQAT_CODE_ROW(quantize_kernel, double)},                       \
        {TORCHQAT_CODE_ROW(dequantize_kernel, float), TORCHQAT_CODE_ROW(dequantize_kernel, Bf16),                     \
         TORCHQAT_CODE_ROW(dequantize_kernel, Half), TORCHQAT_CODE_ROW(dequantize_kernel, double)},                   \
    {                                                                                                                 \
      &apply_mask<float, numerics::Vec>, &apply_mask<Bf16, numerics::Vec>, &apply_mask<Half, numerics::Vec>,          \
          &apply_mask<double, numerics::Wide>                                                                         \
    }                                                                                                                 \
  }

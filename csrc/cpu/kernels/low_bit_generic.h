// The source of low_bit_{scalar,avx2,avx512}.cpp.
#pragma once
#include "cpu/kernels/low_bit.h"
#include "cpu/kernels/of_scale_generic.h"
#include "numerics/bits.h"
#include "numerics/low_bit.h"

namespace torchqat::cpu::inline TORCHQAT_ISA_NAMESPACE {

// Sixteen partial sums, whatever the vector width.
template <typename V>
struct Lanes {
  V part[chunk / V::size];
  TORCHQAT_INLINE Lanes() {
    for (auto& p : part) p = V(typename V::Scalar(0));
  }
  TORCHQAT_INLINE double fold() const {
    typename V::Scalar lane[chunk];
    for (int j = 0; j < chunk; j += V::size) part[j / V::size].store(lane + j);
    for (int width = chunk / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) lane[j] = lane[j] + lane[j + width];
    }
    return static_cast<double>(lane[0]);
  }
};

// Adds to sum[0 .. terms - 1] what term(x, k) gives, over a tile of at most 512 elements; non-finite x count as 0.
template <int terms, typename V, typename T, typename Term>
TORCHQAT_INLINE void sum_tile(const T* in, int64_t n, const Term& term, double* sum) {
  const V zero(typename V::Scalar(0));
  Lanes<V> lanes[terms];
  const auto take = [&](const T* p) {
#pragma GCC unroll 16
    for (int j = 0; j < chunk; j += V::size) {
      const V loaded = V::load(p + j), x = select(numerics::is_finite(loaded), loaded, zero);
      for (int k = 0; k < terms; ++k) lanes[k].part[j / V::size] = lanes[k].part[j / V::size] + term(x, k);
    }
  };
  int64_t i = 0;
  for (; i + chunk <= n; i += chunk) take(in + i);
  if (i < n) {
    T last[chunk] = {};
    std::memcpy(last, in + i, static_cast<size_t>(n - i) * sizeof(T));
    take(last);
  }
  for (int k = 0; k < terms; ++k) sum[k] += lanes[k].fold();
}

template <typename S>
struct Candidate {
  S scale, zero_point;
};

// One row under the search.
template <typename T, typename V, typename S>
struct Row {
  const T* in;
  int64_t length;
  S lo, hi;   // finite range, 0 included
  S norm;     // a power of two that brings the largest magnitude near 1, so that squares neither overflow nor vanish
  V quant_min, quant_max;
  ShareTiles share;
  double* tile_sums;

  TORCHQAT_INLINE Row(const RowsArgs& a, int64_t row)
      : in(static_cast<const T*>(a.in) + row * a.length), length(a.length), quant_min(static_cast<S>(a.quant_min)),
        quant_max(static_cast<S>(a.quant_max)), share(a.share), tile_sums(a.tile_sums) {
    V least(S(0)), most(S(0));
    const V zero(S(0));
    const auto take = [&](const T* p) {
      const V loaded = V::load(p), x = select(numerics::is_finite(loaded), loaded, zero);
      least = lane_min(x, least);
      most = lane_max(x, most);
    };
    int64_t i = 0;
    for (; i + V::size <= length; i += V::size) take(in + i);
    if (i < length) {
      T last[V::size] = {};
      std::memcpy(last, in + i, static_cast<size_t>(length - i) * sizeof(T));
      take(last);
    }
    lo = reduce_min(least);
    hi = reduce_max(most);
    const S power = numerics::exponent_power(-lo > hi ? -lo : hi), smallest = std::numeric_limits<S>::min();
    norm = S(1) / (power > smallest ? power : smallest);
  }

  // sum[0 .. terms - 1]: what one(in, n, part) adds to part[0 .. terms - 1] for each tile, added tile by tile in ascending order.
  template <typename One>
  TORCHQAT_INLINE void over_tiles(int terms, const One& one, double* sum) const {
    for (int k = 0; k < terms; ++k) sum[k] = 0;
    const int64_t tiles = (length + tile - 1) / tile;
    const auto of_tile = [&](int64_t t, double* part) {
      for (int k = 0; k < terms; ++k) part[k] = 0;
      one(in + t * tile, length - t * tile < tile ? length - t * tile : tile, part);
    };
    if (share == nullptr) {
      double part[most_tile_sums];
      for (int64_t t = 0; t < tiles; ++t) {
        of_tile(t, part);
        for (int k = 0; k < terms; ++k) sum[k] += part[k];
      }
      return;
    }
    const auto work = [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) of_tile(t, tile_sums + t * terms);
    };
    share(tiles, [](const void* of, int64_t begin, int64_t end) { (*static_cast<decltype(&work)>(of))(begin, end); }, &work);
    for (int64_t t = 0; t < tiles; ++t) {
      for (int k = 0; k < terms; ++k) sum[k] += tile_sums[t * terms + k];
    }
  }

  // Squared error of each candidate: a tile is read once for all of them.
  TORCHQAT_INLINE void errors(const Candidate<S>* c, int count, double* error) const {
    const V norms(norm);
    over_tiles(count, [&](const T* at, int64_t n, double* part) {
      for (int k = 0; k < count; ++k) {
        const V scale(c[k].scale), zero_point(c[k].zero_point);
        sum_tile<1, V>(at, n, [&](V x, int) {
          const V code = numerics::affine_code(x, scale, zero_point, quant_min, quant_max);
          const V e = (x - numerics::affine_value(code, scale, zero_point)) * norms;
          return e * e;
        }, part + k);
      }
    }, error);
  }

  // The scale that fits the codes of c best; 0 where every code is the zero point.
  TORCHQAT_INLINE S least_squares(const Candidate<S>& c) const {
    double sums[2];
    const V scale(c.scale), zero_point(c.zero_point), norms(norm);
    over_tiles(2, [&](const T* at, int64_t n, double* part) {
      sum_tile<2, V>(at, n, [&](V x, int k) {
        const V code = numerics::affine_code(x, scale, zero_point, quant_min, quant_max) - zero_point;
        return code * (k == 0 ? x * norms : code);
      }, part);
    }, sums);
    return sums[1] > 0 ? static_cast<S>(sums[0] / sums[1] / static_cast<double>(norm)) : S(0);
  }

  TORCHQAT_INLINE double magnitude_sum() const {  // times norm
    double sum;
    const V norms(norm);
    over_tiles(1, [&](const T* at, int64_t n, double* part) {
      sum_tile<1, V>(at, n, [&](V x, int) { return lane_abs(x) * norms; }, part);
    }, &sum);
    return sum;
  }

  // Ternary weight networks: the mean of the magnitudes beyond a multiple of the mean magnitude.
  TORCHQAT_INLINE S twn_scale(double mean) const {
    const V threshold(static_cast<S>(numerics::twn_threshold * mean)), norms(norm), one(S(1)), zero(S(0));
    double kept[2];
    over_tiles(2, [&](const T* at, int64_t n, double* part) {
      sum_tile<2, V>(at, n, [&](V x, int k) {
        const V magnitude = lane_abs(x);
        return select(in_range(magnitude, zero, threshold), zero, k == 0 ? magnitude * norms : one);
      }, part);
    }, kept);
    const double scale = kept[1] > 0 ? kept[0] / kept[1] / static_cast<double>(norm) : 0;
    return numerics::lane_max(std::numeric_limits<S>::min(), static_cast<S>(scale));
  }

  TORCHQAT_INLINE int64_t non_finite() const {
    int64_t finite = 0, i = 0;
    for (; i + V::size <= length; i += V::size) finite += __builtin_popcount(numerics::mask_bits(numerics::is_finite(V::load(in + i))));
    if (i == length) return length - finite;
    T last[V::size] = {};
    std::memcpy(last, in + i, static_cast<size_t>(length - i) * sizeof(T));
    finite += __builtin_popcount(numerics::mask_bits(numerics::is_finite(V::load(last))));
    return length - (finite - (V::size - (length - i)));
  }
};

template <typename T, typename V, typename S>
TORCHQAT_INLINE double magnitude_mean(const Row<T, V, S>& row, const RowsArgs& a, int64_t index) {
  const int64_t count = (a.count ? a.count[index] : a.length) - row.non_finite();
  return count > 0 ? row.magnitude_sum() / static_cast<double>(count) / static_cast<double>(row.norm) : 0;
}

// Candidates compete in rounds; the first of equal errors wins, so the result depends on nothing but the row.
template <typename T, typename V, typename S>
struct Search {
  const RowsArgs& a;
  const Row<T, V, S>& row;
  Candidate<S> best, tried[numerics::coarse_steps + 1];
  double least = std::numeric_limits<double>::infinity();
  double low = 1, high = 1;  // the best candidate's parts of the range

  TORCHQAT_INLINE Search(const RowsArgs& args, const Row<T, V, S>& of) : a(args), row(of), best(from_range(1, 1)) {}

  TORCHQAT_INLINE Candidate<S> from_range(double low_ratio, double high_ratio) const {
    const S lo = static_cast<S>(static_cast<double>(row.lo) * low_ratio);
    const S hi = static_cast<S>(static_cast<double>(row.hi) * high_ratio);
    const auto q = numerics::qparams<S, S>(lo, hi, static_cast<S>(a.quant_min), static_cast<S>(a.quant_max), a.symmetric);
    return {q.scale, q.zero_point};
  }

  // Which of tried[0 .. count - 1] is better than all before, or -1.
  int compete(int count) {
    double error[numerics::coarse_steps + 1];
    row.errors(tried, count, error);
    int won = -1;
    for (int k = 0; k < count; ++k) {
      if (error[k] < least) {
        least = error[k];
        best = tried[k];
        won = k;
      }
    }
    return won;
  }

  TORCHQAT_INLINE void coarse() {
    double ratio[numerics::coarse_steps];
    for (int k = 0; k < numerics::coarse_steps; ++k) {
      ratio[k] = k == 0 ? 1.0 : ratio[k - 1] * numerics::quarter_octave;
      tried[k] = from_range(ratio[k], ratio[k]);
    }
    const int won = compete(numerics::coarse_steps);
    if (won >= 0) low = high = ratio[won];
  }

  // Tries the parts (low, high) times 2^(k/32) of the ends that are not null.
  void around(double* low_end, double* high_end) {
    const double from_low = low, from_high = high;
    double factor[2 * numerics::fine_steps], down = 1;
    for (int k = 0; k < numerics::fine_steps; ++k) {
      down *= numerics::fine_octave;
      factor[2 * k] = down;
      factor[2 * k + 1] = 1 / down;
    }
    for (int k = 0; k < 2 * numerics::fine_steps; ++k) {
      tried[k] = from_range(from_low * (low_end ? factor[k] : 1), from_high * (high_end ? factor[k] : 1));
    }
    const int won = compete(2 * numerics::fine_steps);
    if (won < 0) return;
    if (low_end) *low_end = from_low * factor[won];
    if (high_end) *high_end = from_high * factor[won];
  }

  TORCHQAT_INLINE void fine() {
    around(&low, &high);
    if (a.symmetric) return;
    around(&low, nullptr);
    around(nullptr, &high);
  }

  TORCHQAT_INLINE void refine() {
    for (int i = 0; i < numerics::refinements; ++i) {
      const S scale = row.least_squares(best);
      if (!numerics::in_range(scale, std::numeric_limits<S>::min(), std::numeric_limits<S>::max())) return;
      tried[0] = {scale, best.zero_point};
      if (compete(1) < 0) return;
    }
  }
};

template <typename T, typename V>
void mse_qparams(const RowsArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  for (int64_t r = begin; r < end; ++r) {
    const Row<T, V, S> row(a, r);
    Search<T, V, S> search(a, row);
    if (row.lo < S(0) || row.hi > S(0)) {
      search.coarse();
      if (a.symmetric && a.quant_min == -1 && a.quant_max == 1) {
        search.tried[0] = {row.twn_scale(magnitude_mean(row, a, r)), S(0)};
        search.compete(1);
      }
      search.fine();
      search.refine();
    }
    static_cast<S*>(a.scale)[r] = search.best.scale;
    a.zero_point[r] = static_cast<int32_t>(search.best.zero_point);
  }
}

template <typename T, typename V>
void binary_scales(const RowsArgs& a, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  for (int64_t r = begin; r < end; ++r) {
    const Row<T, V, S> row(a, r);
    const S mean = static_cast<S>(magnitude_mean(row, a, r));
    static_cast<S*>(a.scale)[r] =
        numerics::lane_min(std::numeric_limits<S>::max(), numerics::lane_max(std::numeric_limits<S>::min(), mean));
  }
}

struct BinaryValue {
  template <typename V>
  static TORCHQAT_INLINE V of(V x, V scale) {
    return numerics::binary_value<typename V::Scalar>(x, scale, V(typename V::Scalar(0)));
  }
};

template <typename T, typename V>
void fake_quantize_binary(const AffineArgs& a, int64_t begin, int64_t end) {
  of_scale<BinaryValue, T, V>(a, begin, end);
}

}  // namespace torchqat::cpu

// Entries in the order of Float.
#define TORCHQAT_LOW_BIT_ROW(kernel)                                                                                  \
  {&kernel<float, numerics::Vec>, &kernel<Bf16, numerics::Vec>, &kernel<Half, numerics::Vec>, &kernel<double, numerics::Wide>}
#define TORCHQAT_LOW_BIT_KERNELS                                                                                      \
  {TORCHQAT_LOW_BIT_ROW(mse_qparams), TORCHQAT_LOW_BIT_ROW(binary_scales), TORCHQAT_LOW_BIT_ROW(fake_quantize_binary)}

// The search for the scale with the least squared error, by teams of threads. Sixteen lanes sum a tile of 512 elements and fold
// their sums by a fixed tree; the tiles' sums are added in ascending order, in double. A team is one half-warp for a short row, a
// block of sixteen for a long one: the order is the same.
#pragma once
#include "cuda/kernels/lane.cuh"
#include "cuda/kernels/low_bit.h"
#include "numerics/bits.h"
#include "numerics/low_bit.h"

namespace torchqat::cuda {

constexpr int low_bit_threads = 256, low_bit_lanes = 16, low_bit_tile = 512, low_bit_depth = low_bit_tile / low_bit_lanes;
constexpr int most_candidates = numerics::coarse_steps + 1;

template <typename S>
struct Candidate {
  S scale, zero_point;
};

// halves: half-warps of a team, 1 or 16.
template <typename T, int halves>
struct RowTeam {
  using S = Compute<T>;
  const T* in;
  int64_t length;
  S lo = 0, hi = 0;  // finite range, 0 included
  S norm;            // a power of two that brings the largest magnitude near 1, so that squares neither overflow nor vanish
  S quant_min, quant_max;
  int64_t non_finite = 0;

  static __device__ __forceinline__ int half() { return halves == 1 ? 0 : static_cast<int>(threadIdx.x) / low_bit_lanes; }
  static __device__ __forceinline__ int member() { return static_cast<int>(threadIdx.x) % low_bit_lanes; }

  __device__ RowTeam(const cpu::RowsArgs& a, int64_t row)
      : in(static_cast<const T*>(a.in) + row * a.length), length(a.length), quant_min(static_cast<S>(a.quant_min)),
        quant_max(static_cast<S>(a.quant_max)) {
    for (int64_t i = half() * low_bit_lanes + member(); i < length; i += halves * low_bit_lanes) {
      const S x = widen<S>(in[i]);
      const bool ok = numerics::is_finite(Lane<S>(x));
      lo = numerics::lane_min(ok ? x : S(0), lo);
      hi = numerics::lane_max(ok ? x : S(0), hi);
      non_finite += !ok;
    }
    const auto merge = [&](S other_lo, S other_hi, int64_t other_count) {
      lo = numerics::lane_min(lo, other_lo);
      hi = numerics::lane_max(hi, other_hi);
      non_finite += other_count;
    };
    for (int offset = low_bit_lanes / 2; offset > 0; offset /= 2) {
      merge(__shfl_xor_sync(full_warp, lo, offset), __shfl_xor_sync(full_warp, hi, offset),
            __shfl_xor_sync(full_warp, non_finite, offset));
    }
    if constexpr (halves > 1) {
      __shared__ S all_lo[halves], all_hi[halves];
      __shared__ int64_t all_count[halves];
      if (member() == 0) {
        all_lo[half()] = lo;
        all_hi[half()] = hi;
        all_count[half()] = non_finite;
      }
      __syncthreads();
      lo = hi = 0;
      non_finite = 0;
      for (int h = 0; h < halves; ++h) merge(all_lo[h], all_hi[h], all_count[h]);
    }
    const S power = numerics::exponent_power(-lo > hi ? -lo : hi), smallest = std::numeric_limits<S>::min();
    norm = S(1) / (power > smallest ? power : smallest);
  }

  // total[k] = sum over the row of term(x, k), k < count <= most_candidates; non-finite x count as 0. A tile is read once for
  // all sums. Every thread of the block takes part; every thread of the team has the totals.
  template <typename Term>
  __device__ __forceinline__ void sums(int count, double* total, const Term& term) const {
    __shared__ double part[halves > 1 ? most_candidates : 1][halves], whole[halves > 1 ? most_candidates : 1];
    for (int k = 0; k < count; ++k) total[k] = 0;
    for (int64_t base = 0; base < length; base += halves * low_bit_tile) {
      const int64_t at = base + half() * low_bit_tile, left = length - at;
      const int n = left < 0 ? 0 : left < low_bit_tile ? static_cast<int>(left) : low_bit_tile;
      S x[low_bit_depth];
#pragma unroll
      for (int c = 0; c < low_bit_depth; ++c) {
        const int i = c * low_bit_lanes + member();
        const S value = i < n ? widen<S>(in[at + i]) : S(0);
        x[c] = numerics::is_finite(Lane<S>(value)) ? value : S(0);
      }
      for (int k = 0; k < count; ++k) {
        S sum = 0;
#pragma unroll
        for (int c = 0; c < low_bit_depth; ++c) {
          if (c * low_bit_lanes < n) sum = sum + term(x[c], k);
        }
        for (int offset = low_bit_lanes / 2; offset > 0; offset /= 2) sum = sum + __shfl_xor_sync(full_warp, sum, offset);
        if constexpr (halves == 1) {
          if (n > 0) total[k] += static_cast<double>(sum);
        } else if (member() == 0) {
          part[k][half()] = static_cast<double>(sum);
        }
      }
      if constexpr (halves > 1) {
        __syncthreads();
        const int own = static_cast<int>(threadIdx.x);
        if (own < count) {
          double sum = base == 0 ? 0.0 : whole[own];
          for (int h = 0; h < halves && base + h * low_bit_tile < length; ++h) sum += part[own][h];
          whole[own] = sum;
        }
        __syncthreads();
      }
    }
    if constexpr (halves > 1) {
      if (length > 0) {
        for (int k = 0; k < count; ++k) total[k] = whole[k];
      }
      __syncthreads();
    }
  }

  // Calls, not copies: rounds share the code.
  __device__ __noinline__ void errors(const Candidate<S>* c, int count, double* error) const {
    sums(count, error, [&](S x, int k) {
      const S code = numerics::affine_code(x, c[k].scale, c[k].zero_point, quant_min, quant_max);
      const S e = (x - numerics::affine_value(code, c[k].scale, c[k].zero_point)) * norm;
      return e * e;
    });
  }

  // The scale that fits the codes of c best; 0 where every code is the zero point.
  __device__ __noinline__ S least_squares(const Candidate<S>& c) const {
    double total[2];
    sums(2, total, [&](S x, int k) {
      const S code = numerics::affine_code(x, c.scale, c.zero_point, quant_min, quant_max) - c.zero_point;
      return code * (k == 0 ? x * norm : code);
    });
    return total[1] > 0 ? static_cast<S>(total[0] / total[1] / static_cast<double>(norm)) : S(0);
  }

  // Of `count` elements that are not padding.
  __device__ double magnitude_mean(int64_t count) const {
    double total[1];
    sums(1, total, [&](S x, int) { return numerics::lane_abs(x) * norm; });
    count -= non_finite;
    return count > 0 ? total[0] / static_cast<double>(count) / static_cast<double>(norm) : 0.0;
  }

  // Ternary weight networks: the mean of the magnitudes beyond a multiple of the mean magnitude.
  __device__ S twn_scale(double mean) const {
    const S threshold = static_cast<S>(numerics::twn_threshold * mean);
    double kept[2];
    sums(2, kept, [&](S x, int k) {
      const S magnitude = numerics::lane_abs(x);
      return numerics::in_range(magnitude, S(0), threshold) ? S(0) : k == 0 ? magnitude * norm : S(1);
    });
    const double scale = kept[1] > 0 ? kept[0] / kept[1] / static_cast<double>(norm) : 0.0;
    return numerics::lane_max(std::numeric_limits<S>::min(), static_cast<S>(scale));
  }
};

// Candidates compete in rounds; the first of equal errors wins. Every thread of a team holds the same search; `live` is off where
// another team of the warp goes on alone, and the results no longer count.
template <typename T, int halves>
struct Search {
  using S = Compute<T>;
  const RowTeam<T, halves>& row;
  bool symmetric, live = true;
  Candidate<S> best, tried[most_candidates];
  double least = std::numeric_limits<double>::infinity();
  double low = 1, high = 1;  // the best candidate's parts of the range

  __device__ Search(const RowTeam<T, halves>& of, bool is_symmetric) : row(of), symmetric(is_symmetric), best(from_range(1, 1)) {}

  __device__ __noinline__ Candidate<S> from_range(double low_ratio, double high_ratio) const {
    const S lo = static_cast<S>(static_cast<double>(row.lo) * low_ratio);
    const S hi = static_cast<S>(static_cast<double>(row.hi) * high_ratio);
    const auto q = numerics::qparams<S, S>(lo, hi, row.quant_min, row.quant_max, symmetric);
    return {q.scale, q.zero_point};
  }

  // Which of tried[0 .. count - 1] is better than all before, or -1.
  __device__ __noinline__ int compete(int count) {
    double error[most_candidates];
    row.errors(tried, count, error);
    int won = -1;
    for (int k = 0; k < count; ++k) {
      if (live && error[k] < least) {
        least = error[k];
        best = tried[k];
        won = k;
      }
    }
    return won;
  }

  __device__ void coarse() {
    double ratio[numerics::coarse_steps];
    for (int k = 0; k < numerics::coarse_steps; ++k) {
      ratio[k] = k == 0 ? 1.0 : ratio[k - 1] * numerics::quarter_octave;
      tried[k] = from_range(ratio[k], ratio[k]);
    }
    const int won = compete(numerics::coarse_steps);
    if (won >= 0) low = high = ratio[won];
  }

  // Tries the parts (low, high) times 2^(k/32) of the ends that move.
  __device__ __noinline__ void around(bool low_moves, bool high_moves) {
    double factor[2 * numerics::fine_steps], down = 1;
    for (int k = 0; k < numerics::fine_steps; ++k) {
      down *= numerics::fine_octave;
      factor[2 * k] = down;
      factor[2 * k + 1] = 1 / down;
    }
    for (int k = 0; k < 2 * numerics::fine_steps; ++k) {
      tried[k] = from_range(low * (low_moves ? factor[k] : 1), high * (high_moves ? factor[k] : 1));
    }
    const int won = compete(2 * numerics::fine_steps);
    if (won < 0) return;
    if (low_moves) low *= factor[won];
    if (high_moves) high *= factor[won];
  }

  __device__ void refine() {
    for (int i = 0; i < numerics::refinements && __ballot_sync(full_warp, live) != 0; ++i) {
      const S scale = row.least_squares(best);
      live &= numerics::in_range(scale, std::numeric_limits<S>::min(), std::numeric_limits<S>::max());
      tried[0] = {scale, best.zero_point};
      live &= compete(1) >= 0;
    }
  }
};

template <typename T, int halves>
__global__ void __launch_bounds__(low_bit_threads) mse_kernel(const __grid_constant__ cpu::RowsArgs a, int64_t rows) {
  using S = Compute<T>;
  constexpr int teams = low_bit_threads / (low_bit_lanes * halves);
  const int64_t own = static_cast<int64_t>(blockIdx.x) * teams + static_cast<int>(threadIdx.x) / (low_bit_lanes * halves);
  const int64_t index = own < rows ? own : rows - 1;
  const RowTeam<T, halves> row(a, index);
  Search<T, halves> search(row, a.symmetric);
  search.live = row.lo < S(0) || row.hi > S(0);
  search.coarse();
  if (a.symmetric && a.quant_min == -1 && a.quant_max == 1) {
    search.tried[0] = {row.twn_scale(row.magnitude_mean(a.count != nullptr ? a.count[index] : a.length)), S(0)};
    search.compete(1);
  }
  search.around(true, true);
  if (!a.symmetric) {
    search.around(true, false);
    search.around(false, true);
  }
  search.refine();
  if (own >= rows || static_cast<int>(threadIdx.x) % (low_bit_lanes * halves) != 0) return;
  static_cast<S*>(a.scale)[index] = search.best.scale;
  a.zero_point[index] = static_cast<int32_t>(search.best.zero_point);
}

template <typename T, int halves>
__global__ void __launch_bounds__(low_bit_threads) binary_scale_kernel(const __grid_constant__ cpu::RowsArgs a, int64_t rows) {
  using S = Compute<T>;
  constexpr int teams = low_bit_threads / (low_bit_lanes * halves);
  const int64_t own = static_cast<int64_t>(blockIdx.x) * teams + static_cast<int>(threadIdx.x) / (low_bit_lanes * halves);
  const int64_t index = own < rows ? own : rows - 1;
  const RowTeam<T, halves> row(a, index);
  const S mean = static_cast<S>(row.magnitude_mean(a.count != nullptr ? a.count[index] : a.length));
  if (own >= rows || static_cast<int>(threadIdx.x) % (low_bit_lanes * halves) != 0) return;
  static_cast<S*>(a.scale)[index] =
      numerics::lane_min(std::numeric_limits<S>::max(), numerics::lane_max(std::numeric_limits<S>::min(), mean));
}

}  // namespace torchqat::cuda

// Histograms over [-bound, bound) with bound a power of two, so that widening merges whole bins and every count is exact;
// and the ranges to take from one. No torch.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

// The smallest power of two that is at least magnitude (and at least 2^-100).
float histogram_bound(float magnitude);

// Doubles the bound: bin j of `bins` (even) goes to the bin that covers it.
void widen_histogram(int64_t* counts, int64_t bins);

// Adds n values; those outside go to the outermost bins, non-finite ones are left out.
void count_histogram(const float* x, int64_t n, float bound, int64_t bins, int64_t* counts);

struct Histogram {
  const int64_t* counts;
  int64_t bins;
  float bound;
  float lo, hi;  // smallest and largest value seen; lo > hi: nothing
};
struct HistogramRange {
  float lo, hi;
};

// symmetric: the smallest +-v with `percentile` percent of the values inside; otherwise at most 100 - percentile percent cut
// off at either end.
HistogramRange percentile_range(const Histogram& h, double percentile, bool symmetric);

// The range whose grid has the least squared error over the bins' centres: all ranges shrunk alike are tried, then each end
// on its own. qparams: numerics' formula for n ranges at once.
using RangeToGrid = void (*)(const float* lo, const float* hi, int64_t n, int quant_min, int quant_max, bool symmetric,
                             float* scale, int32_t* zero_point);
HistogramRange least_squares_range(const Histogram& h, int quant_min, int quant_max, bool symmetric, RangeToGrid qparams);

}  // namespace torchqat::cpu

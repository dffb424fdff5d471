// Histograms of observers on the device: counts are integers, added atomically, so their order does not matter; the ranges to take
// from a histogram are the CPU's (cpu/kernels/histogram.h). No torch, no word back to the host.
#pragma once
#include "cuda/kernels/range.h"

namespace torchqat::cuda {

// What the first kernel finds out and the others read.
struct HistogramStep {
  float bound;
  int32_t doublings;  // of the bound, that the values ask for
  int32_t counts;     // not 0: there are finite values
};

struct ObserveHistogram {
  const void* input;       // dense
  Float type;              // f32, bf16 or f16
  int64_t numel;
  RangePlan plan;          // of the whole input as one block
  RangeParts parts;        // from min_max
  int64_t* counts;         // [bins]
  int64_t* wide;           // [bins], workspace
  int64_t bins;
  float *bound, *lo, *hi;  // one element each
  int64_t* nonfinite;      // added to
  int64_t* seen;           // written: how many values were finite
  HistogramStep* step;     // workspace
};
void observe_histogram(const ObserveHistogram& args, Stream stream);

struct HistogramQParams {
  const int64_t* counts;
  int64_t bins;
  const float *bound, *lo, *hi;
  bool least_squares;      // else by percentile
  double percentile;
  int32_t quant_min, quant_max;
  bool symmetric;
  float* scale;
  int32_t* zero_point;
};
void histogram_qparams(const HistogramQParams& args, Stream stream);

}  // namespace torchqat::cuda

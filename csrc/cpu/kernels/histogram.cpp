// Counting, widening and searching histograms.
#include "cpu/kernels/histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "numerics/affine.h"
#include "numerics/histogram.h"

namespace torchqat::cpu {

float histogram_bound(float magnitude) {
  return numerics::histogram_bound(magnitude);
}

void widen_histogram(int64_t* counts, int64_t bins) {
  const int64_t half = bins / 2;
  std::vector<int64_t> wide(bins, 0);
  for (int64_t j = 0; j < bins; ++j) wide[half + ((j - half) >> 1)] += counts[j];
  std::copy(wide.begin(), wide.end(), counts);
}

void count_histogram(const float* x, int64_t n, float bound, int64_t bins, int64_t* counts) {
  const float half = static_cast<float>(bins / 2), per_unit = half / bound;
  constexpr int64_t strip = 256;
  int32_t index[strip];
  for (int64_t at = 0; at < n; at += strip) {
    const int64_t m = std::min(strip, n - at);
    for (int64_t i = 0; i < m; ++i) {
      // NaN goes to the lowest bin here and is not counted below.
      index[i] = static_cast<int32_t>(numerics::histogram_place(x[at + i], per_unit, half)) + static_cast<int32_t>(bins / 2);
    }
    for (int64_t i = 0; i < m; ++i) {
      if (std::isfinite(x[at + i])) ++counts[index[i]];
    }
  }
}

namespace {

double edge(const Histogram& h, int64_t j) { return numerics::histogram_edge(j, h.bins, h.bound); }

HistogramRange inside(const Histogram& h, double lo, double hi) {
  return {std::max(static_cast<float>(lo), h.lo), std::min(static_cast<float>(hi), h.hi)};
}

}  // namespace

HistogramRange percentile_range(const Histogram& h, double percentile, bool symmetric) {
  if (h.lo > h.hi) return {h.lo, h.hi};
  int64_t total = 0;
  for (int64_t j = 0; j < h.bins; ++j) total += h.counts[j];
  const double wanted = percentile / 100.0 * static_cast<double>(total);
  const int64_t half = h.bins / 2;
  int64_t seen = 0;
  if (symmetric) {
    int64_t width = 0;
    while (width < half && (width == 0 || static_cast<double>(seen) < wanted)) {
      seen += h.counts[half + width] + h.counts[half - 1 - width];
      ++width;
    }
    const double v = edge(h, half + width);
    return inside(h, -v, v);
  }
  int64_t top = 0, bottom = h.bins;
  while (top < h.bins && (top == 0 || static_cast<double>(seen) < wanted)) seen += h.counts[top++];
  seen = 0;
  while (bottom > 0 && (bottom == h.bins || static_cast<double>(seen) < wanted)) seen += h.counts[--bottom];
  return inside(h, edge(h, bottom), edge(h, top));
}

HistogramRange least_squares_range(const Histogram& h, int quant_min, int quant_max, bool symmetric, RangeToGrid qparams) {
  if (h.lo > h.hi) return {h.lo, h.hi};
  std::vector<double> centre, weight;
  for (int64_t j = 0; j < h.bins; ++j) {
    if (h.counts[j] == 0) continue;
    centre.push_back(numerics::histogram_centre(j, h.bins, h.bound, h.lo, h.hi));
    weight.push_back(static_cast<double>(h.counts[j]));
  }
  const auto error = [&](HistogramRange r) {
    float scale;
    int32_t zero_point;
    qparams(&r.lo, &r.hi, 1, quant_min, quant_max, symmetric, &scale, &zero_point);
    double sum = 0;
    for (size_t i = 0; i < centre.size(); ++i) {
      const double s = scale, z = zero_point;
      const double code = numerics::affine_code(centre[i], s, z, static_cast<double>(quant_min), static_cast<double>(quant_max));
      const double e = numerics::affine_value(code, s, z) - centre[i];
      sum += weight[i] * e * e;
    }
    return sum;
  };
  const HistogramRange all{std::min(h.lo, 0.0f), std::max(h.hi, 0.0f)};
  HistogramRange best = all;
  double least = error(best);
  const auto attempt = [&](HistogramRange r) {
    const double e = error(r);
    if (e < least) {
      least = e;
      best = r;
    }
  };
  constexpr int steps = numerics::histogram_steps;
  for (int k = 1; k < steps; ++k) {
    const float f = static_cast<float>(k) / steps;
    attempt({all.lo * f, all.hi * f});
  }
  if (symmetric) return best;
  const HistogramRange start = best;
  for (int k = 1; k <= steps; ++k) attempt({all.lo * (static_cast<float>(k) / steps), start.hi});
  const float lo = best.lo;
  for (int k = 1; k <= steps; ++k) attempt({lo, all.hi * (static_cast<float>(k) / steps)});
  return best;
}

}  // namespace torchqat::cpu

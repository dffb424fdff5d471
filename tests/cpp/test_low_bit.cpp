// Searched and mean scales against brute force in double, and equal on every path.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/low_bit.h"

namespace torchqat::cpu {
namespace {

std::vector<const LowBitKernels*> paths() {
  std::vector<const LowBitKernels*> found{&low_bit_scalar};
  if (supported_isa() >= Isa::avx2) found.push_back(&low_bit_avx2);
  if (supported_isa() >= Isa::avx512) found.push_back(&low_bit_avx512);
  return found;
}

double squared_error(const float* x, int64_t n, double scale, int zero_point, int low, int high) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) continue;
    const double code = std::fmin(high, std::fmax(low, std::nearbyint(x[i] / scale) + zero_point));
    const double e = x[i] - (code - zero_point) * scale;
    sum += e * e;
  }
  return sum;
}

double brute_force(const float* x, int64_t n, int low, int high) {
  double most = 0, best = std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) most = std::isfinite(x[i]) ? std::fmax(most, std::fabs(x[i])) : most;
  for (int k = 1; k <= 4000; ++k) best = std::fmin(best, squared_error(x, n, most / high * k / 4000, 0, low, high));
  return best;
}

TEST(LowBit, SearchedScalesComeCloseToBruteForceAndAgreeOnEveryPath) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  for (const int64_t length : {1, 7, 16, 33, 64, 513, 2000}) {
    constexpr int64_t rows = 6;
    std::vector<float> in(static_cast<size_t>(rows * length));
    for (float& x : in) x = normal(generator) * normal(generator);
    for (int64_t i = 0; i < length; ++i) in[static_cast<size_t>(length + i)] *= 1e-30f;
    for (int64_t i = 0; i < length; ++i) in[static_cast<size_t>(2 * length + i)] *= 1e37f;
    for (int64_t i = 0; i < length; ++i) in[static_cast<size_t>(3 * length + i)] = 0;
    if (length > 4) in[3] = std::numeric_limits<float>::infinity();
    for (const auto& [low, high] : {std::pair{-2, 1}, std::pair{-1, 1}, std::pair{-4, 3}, std::pair{-8, 7}}) {
      std::vector<float> first;
      for (const auto* kernels : paths()) {
        std::vector<float> scale(rows);
        std::vector<int32_t> zero_point(rows, 9);
        const RowsArgs args{in.data(), length, nullptr, low, high, true, scale.data(), zero_point.data(), nullptr, nullptr};
        kernels->mse_qparams[0](args, 0, 2);
        kernels->mse_qparams[0](args, 2, rows);
        if (first.empty()) first = scale;
        EXPECT_EQ(first, scale);
        EXPECT_EQ(std::vector<int32_t>(rows, 0), zero_point);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = in.data() + r * length;
        if (r == 3) {
          EXPECT_EQ(1.0f, first[3]);
          continue;
        }
        const double best = brute_force(row, length, low, high), got = squared_error(row, length, first[static_cast<size_t>(r)], 0, low, high);
        double square = 0;
        for (int64_t i = 0; i < length; ++i) square += std::isfinite(row[i]) ? double(row[i]) * row[i] : 0;
        EXPECT_LE(got, best * (high > 3 ? 1.1 : 1.03) + 1e-13 * square) << length << " [" << low << ", " << high << "] row " << r;
      }
    }
  }
}

TEST(LowBit, AffineSearchIsNoWorseThanTheFullRange) {
  std::mt19937 generator(5);
  std::gamma_distribution<float> skewed(2.0f);
  constexpr int64_t rows = 4, length = 300;
  std::vector<float> in(rows * length);
  for (float& x : in) x = skewed(generator) - 0.5f;
  std::vector<float> first;
  std::vector<int32_t> first_zero;
  for (const auto* kernels : paths()) {
    std::vector<float> scale(rows);
    std::vector<int32_t> zero_point(rows);
    const RowsArgs args{in.data(), length, nullptr, 0, 7, false, scale.data(), zero_point.data(), nullptr, nullptr};
    kernels->mse_qparams[0](args, 0, rows);
    if (first.empty()) {
      first = scale;
      first_zero = zero_point;
    }
    EXPECT_EQ(first, scale);
    EXPECT_EQ(first_zero, zero_point);
  }
  for (size_t r = 0; r < rows; ++r) {
    const float* row = in.data() + r * length;
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < length; ++i) lo = std::fmin(lo, row[i]), hi = std::fmax(hi, row[i]);
    const double range_scale = (hi - lo) / 7.0;
    const double range_error = squared_error(row, length, range_scale, static_cast<int>(std::nearbyint(-lo / range_scale)), 0, 7);
    EXPECT_LT(squared_error(row, length, first[r], first_zero[r], 0, 7), 0.8 * range_error);
  }
}

TEST(LowBit, BinaryScaleIsTheMeanMagnitude) {
  std::mt19937 generator(4);
  std::normal_distribution<float> normal;
  for (const int64_t length : {1, 5, 16, 100, 1000}) {
    std::vector<float> in(static_cast<size_t>(3 * length), 0.0f);
    for (int64_t i = 0; i < length; ++i) in[static_cast<size_t>(i)] = normal(generator);
    for (int64_t i = 0; i + 1 < length; ++i) in[static_cast<size_t>(length + i)] = normal(generator);
    if (length > 2) in[static_cast<size_t>(length + 1)] = std::nanf("");
    const std::vector<int64_t> count{length, length > 1 ? length - 1 : 1, length};
    std::vector<float> first;
    for (const auto* kernels : paths()) {
      std::vector<float> scale(3);
      RowsArgs args{};
      args.in = in.data();
      args.length = length;
      args.count = count.data();
      args.scale = scale.data();
      kernels->binary_scales[0](args, 0, 3);
      if (first.empty()) first = scale;
      EXPECT_EQ(first, scale);
    }
    for (int64_t r = 0; r < 2; ++r) {
      double sum = 0, finite = static_cast<double>(count[static_cast<size_t>(r)]);
      for (int64_t i = 0; i < length; ++i) {
        const float x = in[static_cast<size_t>(r * length + i)];
        std::isnan(x) ? finite -= 1 : sum += std::fabs(x);
      }
      const double mean = sum / finite;
      EXPECT_NEAR(mean, first[static_cast<size_t>(r)], 1e-6 * mean + 1e-37);
    }
    EXPECT_EQ(std::numeric_limits<float>::min(), first[2]);
  }
}

}  // namespace
}  // namespace torchqat::cpu

// BatchNorm over blocks against a plain loop in double, and equal bits however the blocks are shared out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/batch_norm.h"

namespace torchqat::cpu::batch_norm {
namespace {

std::vector<const Kernels*> paths() {
  std::vector<const Kernels*> found{&kernels_scalar};
  if (supported_isa() >= Isa::avx2) found.push_back(&kernels_avx2);
  if (supported_isa() >= Isa::avx512) found.push_back(&kernels_avx512);
  return found;
}

size_t at(const Shape& s, int64_t n, int64_t c, int64_t p) {
  return static_cast<size_t>(s.channels_last ? (n * s.pixels + p) * s.channels + c : (n * s.channels + c) * s.pixels + p);
}

struct Result {
  std::vector<float> mean, var, y, dx, sum, product;
  bool operator==(const Result& o) const {
    return mean == o.mean && var == o.var && y == o.y && dx == o.dx && sum == o.sum && product == o.product;
  }
};

// Blocks in `pieces` calls.
Result run(const Kernels& k, const Shape& s, const std::vector<float>& x, const std::vector<float>& grad, bool relu, int64_t pieces) {
  const auto channels = static_cast<size_t>(s.channels), parts = static_cast<size_t>(s.blocks()) * channels;
  Result r;
  r.mean.resize(channels);
  r.var.resize(channels);
  r.y.resize(x.size());
  r.dx.resize(x.size());
  r.sum.resize(parts);
  r.product.resize(parts);
  std::vector<float> mean(parts), rest(parts), squares(parts), scale(channels), shift(channels), average(channels), slope(channels);
  const auto each = [&](auto body) {
    for (int64_t i = 0; i < pieces; ++i) body(s.blocks() * i / pieces, s.blocks() * (i + 1) / pieces);
  };
  const Moments moments{mean.data(), rest.data(), squares.data()};
  each([&](int64_t b, int64_t e) { k.moments(s, x.data(), b, e, moments); });
  merge_moments(s, moments, r.mean.data(), r.var.data());
  for (size_t c = 0; c < channels; ++c) {
    scale[c] = (c % 3 == 1 ? -0.5f : 1.5f) / std::sqrt(r.var[c] + 0.1f);
    shift[c] = 0.1f * static_cast<float>(c % 7) - 0.2f;
    average[c] = 0.01f * static_cast<float>(c);
    slope[c] = 0.02f;
  }
  const float ceiling = s.channels % 2 == 0 ? 1.25f : std::numeric_limits<float>::infinity();
  const Parameters p{r.mean.data(), scale.data(), shift.data(), relu, ceiling};
  each([&](int64_t b, int64_t e) { k.normalize(s, x.data(), p, b, e, r.y.data()); });
  each([&](int64_t b, int64_t e) { k.gradient_sums(s, grad.data(), x.data(), p, b, e, r.sum.data(), r.product.data()); });
  each([&](int64_t b, int64_t e) { k.gradient(s, grad.data(), x.data(), p, average.data(), slope.data(), b, e, r.dx.data()); });

  std::vector<double> sum(channels), product(channels);
  merge_sums(s, r.sum.data(), sum.data());
  merge_sums(s, r.product.data(), product.data());
  for (int64_t c = 0; c < s.channels; ++c) {
    const auto i = static_cast<size_t>(c);
    double mean_of = 0, square = 0, open = 0, open_product = 0, terms = 0;
    for (int64_t n = 0; n < s.samples; ++n) {
      for (int64_t q = 0; q < s.pixels; ++q) mean_of += x[at(s, n, c, q)] / static_cast<double>(s.count());
    }
    for (int64_t n = 0; n < s.samples; ++n) {
      for (int64_t q = 0; q < s.pixels; ++q) {
        const size_t e = at(s, n, c, q);
        square += (x[e] - mean_of) * (x[e] - mean_of) / static_cast<double>(s.count());
        const float centred = x[e] - r.mean[i], value = centred * scale[i] + shift[i];
        const double gradient = relu && (value <= 0 || value >= ceiling) ? 0.0 : grad[e];
        open += gradient;
        open_product += gradient * centred;
        terms += std::fabs(gradient * centred) + std::fabs(gradient);
        EXPECT_EQ(r.y[e], !relu ? value : std::min(ceiling, std::max(0.0f, value)));
        const double dx = (gradient - average[i] - centred * slope[i]) * scale[i];
        EXPECT_NEAR(r.dx[e], dx, 1e-5 + 1e-6 * std::fabs(dx));
      }
    }
    EXPECT_NEAR(r.mean[i], mean_of, 2e-7 * std::fabs(mean_of) + 1e-9);
    EXPECT_NEAR(r.var[i], square, 1e-6 * square + 1e-12);
    EXPECT_NEAR(sum[i], open, 1e-6 * terms + 1e-9);
    EXPECT_NEAR(product[i], open_product, 1e-6 * terms + 1e-9);
  }
  return r;
}

TEST(BatchNorm, AgainstDoubleAndEqualOnEveryPathAndSplit) {
  std::mt19937 generator(11);
  std::normal_distribution<float> normal;
  for (const Shape base : {Shape{1, 1, 2}, Shape{3, 5, 1}, Shape{2, 17, 33}, Shape{4, 64, 31}, Shape{2, 3, 8193}, Shape{70, 130, 6}}) {
    for (const bool channels_last : {false, true}) {
      Shape s = base;
      s.channels_last = channels_last;
      std::vector<float> x(static_cast<size_t>(s.count() * s.channels)), grad(x.size());
      for (float& v : x) v = 3 * normal(generator) + 2;
      for (float& v : grad) v = normal(generator);
      for (const bool relu : {false, true}) {
        const Result first = run(kernels_scalar, s, x, grad, relu, 1);
        for (const Kernels* k : paths()) {
          for (const int64_t pieces : {1, 2, 5}) EXPECT_TRUE(run(*k, s, x, grad, relu, pieces) == first);
        }
      }
    }
  }
}

TEST(BatchNorm, ALargeMeanCostsNoDigits) {
  // Exact by construction: values 4096 +- 1/64.
  for (const bool channels_last : {false, true}) {
    Shape s{4, 3, 1000};
    s.channels_last = channels_last;
    std::vector<float> x(12000);
    for (size_t i = 0; i < x.size(); ++i) x[i] = 4096.0f + (i % 2 == 0 ? 1.0f : -1.0f) / 64.0f;
    if (channels_last) {
      for (size_t i = 0; i < x.size(); ++i) x[i] = 4096.0f + (i / 3 % 2 == 0 ? 1.0f : -1.0f) / 64.0f;
    }
    for (const Kernels* k : paths()) {
      const Result r = run(*k, s, x, x, false, 1);
      for (size_t c = 0; c < 3; ++c) {
        EXPECT_EQ(r.mean[c], 4096.0f);
        EXPECT_EQ(r.var[c], 1.0f / 4096.0f);
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::batch_norm

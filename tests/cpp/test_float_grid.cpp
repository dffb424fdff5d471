// Float grids on every kernel path against tables of the format's values and a direct reading of the MX and NVFP4 rules.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/float_grid.h"

namespace torchqat::cpu {
namespace {

using numerics::FloatFormat, numerics::FormatSpec, numerics::ScaleRounding, numerics::format_specs;

struct Path {
  const char* name;
  const FloatGridKernels* kernels;
};

std::vector<Path> paths() {
  std::vector<Path> found{{"scalar", &float_grid_scalar}};
  if (supported_isa() >= Isa::avx2) found.push_back({"avx2", &float_grid_avx2});
  if (supported_isa() >= Isa::avx512) found.push_back({"avx512", &float_grid_avx512});
  return found;
}

// Every value >= 0 of the format, ascending: position parity is mantissa parity.
std::vector<double> values_of(const FormatSpec& f) {
  std::vector<double> values;
  const int steps = 1 << f.mantissa_bits;
  for (int m = 0; m < steps; ++m) values.push_back(std::ldexp(m, f.min_exponent - f.mantissa_bits));
  for (int e = f.min_exponent; e <= f.max_exponent; ++e) {
    for (int m = 0; m < steps; ++m) {
      const double v = std::ldexp(steps + m, e - f.mantissa_bits);
      if (v <= f.largest) values.push_back(v);
    }
  }
  return values;
}

double nearest(const std::vector<double>& values, double u) {
  if (std::isnan(u)) return u;
  const double a = std::fabs(u);
  if (a >= values.back()) return std::copysign(values.back(), u);
  size_t i = 0;
  while (values[i + 1] <= a) ++i;
  const double down = a - values[i], up = values[i + 1] - a;
  const bool take_upper = up < down || (up == down && i % 2 == 1);
  return std::copysign(values[take_upper ? i + 1 : i], u);
}

uint32_t bits_of(float x) {
  uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  return b;
}

void expect_same(const std::vector<float>& want, const std::vector<float>& got, const char* path, const char* what) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) {
    const bool same = (std::isnan(want[i]) && std::isnan(got[i])) || bits_of(want[i]) == bits_of(got[i]);
    ASSERT_TRUE(same) << path << " " << what << " at " << i << ": want " << want[i] << ", got " << got[i];
  }
}

bool bit(const std::vector<uint8_t>& mask, size_t i) { return (mask[i / 8] >> (i % 8)) & 1; }

Blocks whole(int64_t n) {
  const int64_t stride = 0;
  return make_blocks(1, &n, &n, &stride);
}

TEST(FloatGrid, EveryValueMidpointAndNeighbourRoundsToNearestEven) {
  for (const auto& path : paths()) {
    for (int f = 0; f < 5; ++f) {
      const auto values = values_of(format_specs[f]);
      EXPECT_EQ(format_specs[f].largest, values.back());
      std::vector<float> in;
      const auto with_neighbours = [&](double v) {
        const float x = static_cast<float>(v);
        for (const float y : {x, std::nextafterf(x, 1e30f), std::nextafterf(x, -1e30f)}) {
          in.push_back(y);
          in.push_back(-y);
        }
      };
      for (size_t i = 0; i < values.size(); ++i) {
        with_neighbours(values[i]);
        if (i + 1 < values.size()) with_neighbours((values[i] + values[i + 1]) / 2);
      }
      for (const float x : {1e30f, std::numeric_limits<float>::infinity(), 1e-40f, std::nanf("")}) {
        in.push_back(x);
        in.push_back(-x);
      }
      std::vector<float> want, got(in.size());
      for (const float x : in) want.push_back(static_cast<float>(nearest(values, x)));
      std::vector<uint8_t> mask((in.size() + 7) / 8);
      const float one = 1;
      const Blocks blocks = whole(static_cast<int64_t>(in.size()));
      const FloatGridArgs args{&blocks, in.data(), got.data(), mask.data(), &one, static_cast<FloatFormat>(f), false};
      path.kernels->fake_quantize[0](args, 0, static_cast<int64_t>(in.size()));
      expect_same(want, got, path.name, format_specs[f].name);
      for (size_t i = 0; i < in.size(); ++i) {
        ASSERT_EQ(std::fabs(in[i]) <= format_specs[f].largest, bit(mask, i)) << path.name << " " << in[i];
      }
    }
  }
}

TEST(FloatGrid, DoublesRoundTheSame) {
  for (int f = 0; f < 5; ++f) {
    const auto values = values_of(format_specs[f]);
    std::vector<double> in, got;
    for (size_t i = 0; i + 1 < values.size(); ++i) {
      const double middle = (values[i] + values[i + 1]) / 2;
      for (const double x : {values[i], middle, std::nextafter(middle, 1e30), std::nextafter(middle, -1.0)}) in.push_back(-x);
    }
    in.push_back(1e300);
    got.resize(in.size());
    const double one = 1;
    const Blocks blocks = whole(static_cast<int64_t>(in.size()));
    const FloatGridArgs args{&blocks, in.data(), got.data(), nullptr, &one, static_cast<FloatFormat>(f), false};
    float_grid_scalar.fake_quantize[3](args, 0, static_cast<int64_t>(in.size()));
    for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(nearest(values, in[i]), got[i]) << in[i];
  }
}

// The exponent rules in words, with integer exponents and ldexp.
double mx_scale_oracle(const std::vector<float>& block, const FormatSpec& f, ScaleRounding rounding) {
  double amax = 0;
  for (const float x : block) {
    if (!std::isfinite(x)) return std::nan("");
    amax = std::fmax(amax, std::fabs(x));
  }
  if (amax == 0) return std::ldexp(1.0, -127);
  int exponent;  // amax = fraction * 2^exponent, fraction in [0.5, 1)
  if (rounding == ScaleRounding::rceil) {
    const float ratio = static_cast<float>(amax) / static_cast<float>(f.largest);
    if (ratio == 0) return std::ldexp(1.0, -127);
    const double fraction = std::frexp(ratio, &exponent);
    exponent = fraction == 0.5 ? exponent - 1 : exponent;
  } else {
    double fraction = std::frexp(amax, &exponent);
    --exponent;
    if (rounding == ScaleRounding::ceil && fraction != 0.5) ++exponent;
    if (rounding == ScaleRounding::even && fraction * 2 + std::ldexp(1.0, -f.mantissa_bits - 1) >= 2) ++exponent;
    exponent -= f.max_exponent;
  }
  return std::ldexp(1.0, std::min(127, std::max(-127, exponent)));
}

std::vector<float> mixed_values(size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-150, 127), kind(0, 40);
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) {
    x[i] = normal(generator);
    const int k = kind(generator);
    if (k == 0) x[i] = 0;
    if (k == 1) x[i] = std::ldexp(1.0f, exponent(generator) % 8);
  }
  for (size_t i = 0; i + 64 < n; i += 256) {  // some blocks with extreme exponents
    const int e = exponent(generator);
    for (size_t j = i; j < i + 64; ++j) x[j] = std::ldexp(x[j], e);
  }
  return x;
}

TEST(FloatGrid, MxBlocksFollowTheRuleOnEveryPath) {
  struct Shape {
    int64_t rows, columns, block;
  };
  for (const Shape s : {Shape{40, 256, 32}, Shape{7, 48, 32}, Shape{5, 96, 16}, Shape{3, 128, 48}, Shape{2, 64, 64}}) {
    auto in = mixed_values(static_cast<size_t>(s.rows * s.columns), 7);
    in[3] = std::numeric_limits<float>::infinity();
    in[static_cast<size_t>(s.columns) + 1] = std::nanf("");
    for (int f = 0; f < 5; ++f) {
      const auto values = values_of(format_specs[f]);
      for (int r = 0; r < 4; ++r) {
        FloatBlockArgs args{};
        args.columns = s.columns;
        args.block = s.block;
        args.format = static_cast<FloatFormat>(f);
        args.rounding = static_cast<ScaleRounding>(r);
        const int64_t per_row = args.blocks_per_row(), count = per_row * s.rows;
        std::vector<float> want(in.size()), want_scale;
        std::vector<bool> passes(in.size());
        for (int64_t b = 0; b < count; ++b) {
          const int64_t begin = (b / per_row) * s.columns + (b % per_row) * s.block;
          const int64_t end = std::min(begin + s.block, (b / per_row + 1) * s.columns);
          const std::vector<float> block(in.begin() + begin, in.begin() + end);
          const double scale = mx_scale_oracle(block, format_specs[f], args.rounding);
          want_scale.push_back(static_cast<float>(scale));
          for (int64_t i = begin; i < end; ++i) {
            const double u = in[static_cast<size_t>(i)] / scale;
            want[static_cast<size_t>(i)] = static_cast<float>(nearest(values, u) * scale);
            passes[static_cast<size_t>(i)] = std::fabs(u) <= format_specs[f].largest;
          }
        }
        for (const auto& path : paths()) {
          std::vector<float> got(in.size()), scales(static_cast<size_t>(count));
          std::vector<uint8_t> mask(in.size() / 8);
          args.in = in.data();
          args.out = got.data();
          args.mask = mask.data();
          args.scale = scales.data();
          ASSERT_TRUE(args.aligned());
          path.kernels->fake_quantize_blocks[0](args, 0, 2);
          path.kernels->fake_quantize_blocks[0](args, 2, count);
          path.kernels->block_scales[0](args, 0, count);
          expect_same(want_scale, scales, path.name, "scale");
          expect_same(want, got, path.name, format_specs[f].name);
          for (size_t i = 0; i < in.size(); ++i) ASSERT_EQ(passes[i], bit(mask, i)) << path.name << " " << i;
        }
      }
    }
  }
}

TEST(FloatGrid, Nvfp4FollowsTheFormula) {
  const auto e2m1 = values_of(format_specs[4]), e4m3 = values_of(format_specs[0]);
  std::vector<float> in = mixed_values(16 * 40, 11);
  for (float& x : in) x = std::fabs(x) < 1e4f ? x : 1.0f;
  in[5] = std::numeric_limits<float>::infinity();
  in[38] = std::nanf("");
  for (const float tensor_scale : {1.0f, 0.37f, 1e-6f, 1e-42f}) {
    std::vector<float> want;
    for (size_t b = 0; b < in.size(); b += 16) {
      float amax = 0;
      for (size_t i = b; i < b + 16; ++i) amax = std::isfinite(in[i]) ? std::fmax(amax, std::fabs(in[i])) : amax;
      const float wanted = std::fmin(448.0f, std::fmax(0.015625f, amax / 6.0f / tensor_scale));
      const float scale = std::fmax(static_cast<float>(nearest(e4m3, wanted)) * tensor_scale, 1e-45f);
      for (size_t i = b; i < b + 16; ++i) {
        want.push_back(static_cast<float>(nearest(e2m1, in[i] / scale)) * scale);
      }
    }
    for (const auto& path : paths()) {
      std::vector<float> got(in.size());
      FloatBlockArgs args{};
      args.in = in.data();
      args.out = got.data();
      args.columns = args.block = 16;
      args.format = FloatFormat::e2m1;
      args.tensor_scale = &tensor_scale;
      path.kernels->fake_quantize_blocks[0](args, 0, static_cast<int64_t>(in.size() / 16));
      expect_same(want, got, path.name, "nvfp4");
    }
  }
}

TEST(FloatGrid, FiniteAbsmaxLeavesOutWhatIsNotFinite) {
  for (size_t n : {0, 1, 2, 7, 8, 15, 16, 17, 33, 100}) {
    std::vector<float> in(n, -1.0f);
    if (n > 1) in[n - 1] = -std::numeric_limits<float>::infinity();
    if (n > 2) in[0] = std::nanf("");
    if (n > 6) in[5] = -3.5f;
    for (const auto& path : paths()) {
      EXPECT_EQ(n == 0 ? 0 : n > 6 ? 3.5 : 1.0, path.kernels->finite_absmax[0](in.data(), static_cast<int64_t>(n))) << path.name;
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu

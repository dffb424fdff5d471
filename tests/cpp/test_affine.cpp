// Block structures and the integer-grid, statistics and learned-scale kernels on every supported path against scalar loops.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/affine.h"
#include "cpu/kernels/histogram.h"
#include "cpu/kernels/learned.h"
#include "cpu/kernels/range.h"

namespace torchqat::cpu {
namespace {

struct Case {
  std::vector<int64_t> size, block;
};

const std::vector<Case> cases = {
    {{1}, {1}},          {{7}, {7}},         {{15}, {3}},            {{600}, {7}},           {{1025}, {512}},
    {{33, 65}, {1, 65}}, {{33, 65}, {33, 1}}, {{9, 31}, {1, 5}},      {{17, 96}, {1, 32}},    {{70, 33}, {32, 16}},
    {{64, 64}, {16, 32}}, {{3, 32, 20}, {3, 1, 20}}, {{5, 6, 7}, {2, 1, 3}}, {{2, 3, 1, 5}, {1, 3, 1, 2}},
};

std::vector<int64_t> strides_of_scales(const Case& c, int64_t* total) {
  std::vector<int64_t> stride(c.size.size());
  int64_t step = 1;
  for (size_t d = c.size.size(); d-- > 0;) {
    stride[d] = step;
    step *= (c.size[d] + c.block[d] - 1) / c.block[d];
  }
  *total = step;
  return stride;
}

Blocks blocks_for(const Case& c) {
  int64_t total;
  const auto stride = strides_of_scales(c, &total);
  return make_blocks(static_cast<int>(c.size.size()), c.size.data(), c.block.data(), stride.data());
}

// The scale of an element, straight from the definition.
int64_t scale_index(const Case& c, int64_t element) {
  int64_t total;
  const auto stride = strides_of_scales(c, &total);
  int64_t index = 0;
  for (size_t d = c.size.size(); d-- > 0;) {
    index += element % c.size[d] / c.block[d] * stride[d];
    element /= c.size[d];
  }
  return index;
}

std::vector<float> values(int64_t n) {
  std::mt19937 generator(static_cast<unsigned>(n));
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> x(n);
  for (auto& v : x) v = normal(generator);
  if (n > 20) {
    x[3] = std::numeric_limits<float>::quiet_NaN();
    x[7] = std::numeric_limits<float>::infinity();
    x[9] = -x[7];
    x[11] = 0.125f;  // a tie for scale 1/4
  }
  return x;
}

bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

template <typename Body>
void on_every_path(Body body) {
  const Isa before = current_isa();
  for (const auto& name : supported_isa_names()) {
    SCOPED_TRACE(name);
    set_isa(name);
    body();
  }
  set_isa(isa_name(before));
}

struct Grid {
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
};
Grid grid_for(const Blocks& b) {
  Grid g;
  for (int64_t i = 0; i < b.scales; ++i) {
    g.scale.push_back(0.25f * static_cast<float>(1 + i % 5));
    g.zero_point.push_back(static_cast<int32_t>(i % 4));
  }
  return g;
}

}  // namespace

TEST(Blocks, CommonStructuresBecomeOneDimension) {
  EXPECT_EQ(1, blocks_for({{8, 9, 10}, {8, 9, 10}}).dims);  // per tensor
  const Blocks channel = blocks_for({{8, 9, 10}, {1, 9, 10}});
  EXPECT_EQ(1, channel.dims);
  EXPECT_EQ(90, channel.block[0]);
  const Blocks group = blocks_for({{8, 64}, {1, 32}});
  EXPECT_EQ(1, group.dims);
  EXPECT_EQ(32, group.block[0]);
  EXPECT_TRUE(group.aligned);
  EXPECT_EQ(2, blocks_for({{8, 60}, {1, 32}}).dims);  // short last blocks
  EXPECT_FALSE(blocks_for({{8, 60}, {1, 30}}).aligned);
}

TEST(FakeQuantize, EqualsTheDefinitionOnEveryPath) {
  for (const Case& c : cases) {
    const Blocks b = blocks_for(c);
    const auto x = values(b.numel);
    const Grid g = grid_for(b);
    std::vector<float> want(b.numel);
    std::vector<bool> inside(b.numel);
    for (int64_t i = 0; i < b.numel; ++i) {
      const float s = g.scale[scale_index(c, i)], z = static_cast<float>(g.zero_point[scale_index(c, i)]);
      const float level = std::nearbyint(x[i] / s) + z;
      inside[i] = level >= -8 && level <= 7;
      want[i] = ((std::isnan(level) ? level : std::fmin(7, std::fmax(-8, level))) - z) * s;
    }
    on_every_path([&] {
      const auto& k = *select(&affine_scalar, &affine_avx2, &affine_avx512);
      std::vector<float> y(b.numel, -1), dx(b.numel, -1);
      std::vector<uint8_t> mask((b.numel + 7) / 8 + 1, 0xa5);
      AffineArgs a{&b, x.data(), y.data(), mask.data(), g.scale.data(), g.zero_point.data(), -8, 7, false};
      // In two ranges, as two threads would.
      const int64_t cut = std::min<int64_t>(tile, b.numel);
      k.fake_quantize[0](a, 0, cut);
      k.fake_quantize[0](a, cut, b.numel);
      for (int64_t i = 0; i < b.numel; ++i) {
        ASSERT_TRUE(same(want[i], y[i])) << i << " of " << b.numel << ": " << y[i] << " for " << want[i];
        ASSERT_EQ(inside[i], (mask[i / 8] >> (i % 8) & 1) != 0) << i;
      }
      EXPECT_EQ(0xa5, mask.back());
      a.in = want.data();
      a.out = dx.data();
      k.apply_mask[0](a, 0, b.numel);
      for (int64_t i = 0; i < b.numel; ++i) ASSERT_TRUE(same(inside[i] ? want[i] : 0.0f, dx[i])) << i;
    });
  }
}

TEST(Quantize, CodesAndBackOnEveryPath) {
  for (const Case& c : cases) {
    const Blocks b = blocks_for(c);
    const auto x = values(b.numel);
    const Grid g = grid_for(b);
    on_every_path([&] {
      const auto& k = *select(&affine_scalar, &affine_avx2, &affine_avx512);
      std::vector<int8_t> codes(b.numel);
      std::vector<float> back(b.numel);
      AffineArgs a{&b, x.data(), codes.data(), nullptr, g.scale.data(), g.zero_point.data(), -8, 7, false};
      k.quantize[0][static_cast<int>(Code::s8)](a, 0, b.numel);
      a.in = codes.data();
      a.out = back.data();
      k.dequantize[0][static_cast<int>(Code::s8)](a, 0, b.numel);
      for (int64_t i = 0; i < b.numel; ++i) {
        const float s = g.scale[scale_index(c, i)];
        const int z = g.zero_point[scale_index(c, i)];
        const float level = std::nearbyint(x[i] / s) + static_cast<float>(z);
        const int code = std::isnan(level) ? z : static_cast<int>(std::fmin(7, std::fmax(-8, level)));
        ASSERT_EQ(code, codes[i]) << i;
        ASSERT_TRUE(same(static_cast<float>(code - z) * s, back[i])) << i;
      }
    });
  }
}

TEST(Range, FiniteExtremesOfEveryBlock) {
  for (const Case& c : cases) {
    const Blocks b = blocks_for(c);
    const auto x = values(b.numel);
    constexpr float inf = std::numeric_limits<float>::infinity();
    std::vector<float> want_lo(b.scales, inf), want_hi(b.scales, -inf);
    int64_t want_bad = 0;
    for (int64_t i = 0; i < b.numel; ++i) {
      const int64_t s = scale_index(c, i);
      if (!std::isfinite(x[i])) {
        ++want_bad;
        continue;
      }
      want_lo[s] = std::fmin(want_lo[s], x[i]);
      want_hi[s] = std::fmax(want_hi[s], x[i]);
    }
    on_every_path([&] {
      std::vector<float> lo(b.scales, inf), hi(b.scales, -inf);
      const auto& k = *select(&range_scalar, &range_avx2, &range_avx512);
      EXPECT_EQ(want_bad, k.min_max[0]({&b, x.data(), lo.data(), hi.data()}, 0, b.numel));
      EXPECT_EQ(want_lo, lo);
      EXPECT_EQ(want_hi, hi);
    });
  }
}

TEST(Learned, SumsAreTheSameBitsOnEveryPathAndNearDouble) {
  for (const Case& c : cases) {
    const Blocks b = blocks_for(c);
    const auto x = values(b.numel);
    auto dy = values(b.numel + 1);
    for (auto& v : dy) v = std::isfinite(v) ? v : 1.0f;
    const Grid g = grid_for(b);
    std::vector<double> want(b.scales), size(b.scales), first;
    for (int64_t i = 0; i < b.numel; ++i) {
      const int64_t index = scale_index(c, i);
      const float s = g.scale[index], z = static_cast<float>(g.zero_point[index]), level = std::nearbyint(x[i] / s) + z;
      if (std::isnan(level)) continue;
      const double slope = level < -8 ? -8 - z : level > 7 ? 7 - z : static_cast<double>(level - z) - x[i] / static_cast<double>(s);
      want[index] += dy[i] * slope;
      size[index] += std::fabs(dy[i]) * (std::fabs(slope) + std::fabs(std::fmin(7, std::fmax(-8, level)) - z));
    }
    on_every_path([&] {
      const auto& k = *select(&learned_scalar, &learned_avx2, &learned_avx512);
      std::vector<double> ds(b.scales), dz(b.scales);
      std::vector<float> dx(b.numel);
      k.backward[0]({&b, x.data(), dy.data(), dx.data(), g.scale.data(), g.zero_point.data(), -8, 7, ds.data(), dz.data(), false}, 0,
                    b.numel);
      for (int64_t i = 0; i < b.scales; ++i) ASSERT_NEAR(want[i], ds[i], 1e-30 + size[i] * 0x1p-21) << i;
      if (first.empty()) first = ds;
      EXPECT_EQ(first, ds);
    });
  }
}

TEST(Histogram, WideningMergesWholeBins) {
  EXPECT_EQ(1.0f, histogram_bound(1.0f));
  EXPECT_EQ(2.0f, histogram_bound(1.0001f));
  EXPECT_EQ(0x1p127f, histogram_bound(std::numeric_limits<float>::max()));
  const auto x = values(5000);
  std::vector<int64_t> narrow(64), wide(64);
  std::vector<float> small;
  for (const float v : x) {
    if (std::fabs(v) < 2) small.push_back(v);
  }
  count_histogram(small.data(), static_cast<int64_t>(small.size()), 2, 64, narrow.data());
  count_histogram(small.data(), static_cast<int64_t>(small.size()), 8, 64, wide.data());
  widen_histogram(narrow.data(), 64);
  widen_histogram(narrow.data(), 64);
  EXPECT_EQ(wide, narrow);
}

}  // namespace torchqat::cpu

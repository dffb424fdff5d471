// Quantising rows and weights on every supported path against the plain formula, near-ties included.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/panels.h"
#include "cpu/kernels/quantize_groups.h"
#include "cpu/kernels/quantize_rows.h"
#include "supported_paths.h"

using namespace torchqat::cpu;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

struct Path {
  const char* name;
  QuantizeRowsFn rows;
  QuantizePackS8Fn pack;
  QuantizeGroupsFn groups;
  GroupScalesFn group_scales;
};

std::vector<Path> paths() {
  return supported_paths<Path>(
      {{"scalar", quantize_rows_scalar, quantize_pack_s8_scalar, quantize_groups_scalar, group_scales_scalar},
       {"avx2", quantize_rows_avx2, quantize_pack_s8_avx2, quantize_groups_avx2, group_scales_avx2},
       {"avx512", quantize_rows_avx512, quantize_pack_s8_avx512, quantize_groups_avx512, group_scales_avx512}});
}

struct Expected {
  int code;
  bool inside;
};

Expected expected(float x, float scale, int zero_point, float low, float high) {
  const float quotient = x / scale;  // volatile-free: the tests are built without contraction
  const float level = std::nearbyintf(quotient) + static_cast<float>(zero_point);
  if (std::isnan(level)) return {zero_point, false};
  return {static_cast<int>(std::min(high, std::max(low, level))), low <= level && level <= high};
}

// Values around every tie of the grid, one ulp at a time, where a reciprocal would round the other way.
std::vector<float> near_ties(float scale) {
  std::vector<float> values = {0.0f, -0.0f, inf, -inf, 1e38f, -1e38f, 1e-40f, std::numeric_limits<float>::max()};
  for (int level = -140; level < 280; ++level) {
    float x = (static_cast<float>(level) + 0.5f) * scale;
    x = std::nextafterf(std::nextafterf(x, -inf), -inf);
    for (int step = 0; step < 5; ++step, x = std::nextafterf(x, inf)) values.push_back(x);
  }
  return values;
}

TEST(QuantizeRows, NearTiesAndMask) {
  for (float scale : {0.1f, 0.0078431377f, 1.0f, 3.0e-39f, 1.17549435e-38f, 2.5e38f, 0.99999994f, 1.7e-5f}) {
    const std::vector<float> x = near_ties(scale);
    const auto count = static_cast<int64_t>(x.size());
    const int32_t zero_point = 117;
    for (const Path& path : paths()) {
      std::vector<uint8_t> codes(static_cast<size_t>(padded64(count)), 99), mask(static_cast<size_t>((count + 7) / 8));
      uint8_t flag = 7;
      QuantizeRows q;
      q.input = x.data();
      q.columns = q.ld_input = count;
      q.scale = &scale;
      q.zero_point = &zero_point;
      q.quant_min = 3.0f;
      q.quant_max = 250.0f;
      q.codes = codes.data();
      q.ld_codes = padded64(count);
      q.mask = mask.data();
      q.ld_mask = (count + 7) / 8;
      q.nan_rows = &flag;
      path.rows(q, 0, 1);
      EXPECT_EQ(flag, 0);
      for (int64_t j = 0; j < count; ++j) {
        const auto i = static_cast<size_t>(j);
        const Expected e = expected(x[i], scale, zero_point, 3.0f, 250.0f);
        ASSERT_EQ(codes[i], e.code) << path.name << " x " << x[i] << " scale " << scale;
        ASSERT_EQ((mask[i / 8] >> (i % 8)) & 1, e.inside ? 1 : 0) << path.name << " x " << x[i];
      }
      for (auto i = static_cast<size_t>(count); i < codes.size(); ++i) ASSERT_EQ(codes[i], 0);
    }
  }
}

TEST(QuantizeRows, EveryLengthAndNanFlags) {
  std::mt19937 random(3);
  std::normal_distribution<float> value(0.0f, 2.0f);
  for (int64_t columns : {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 130}) {
    const int64_t rows = 5, ld = columns + 3, ldc = padded64(columns) + 64;
    std::vector<float> x(static_cast<size_t>(rows * ld + 1), nan_value);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) x[static_cast<size_t>(i * ld + j)] = value(random);
    }
    if (columns > 0) x[static_cast<size_t>(3 * ld + columns - 1)] = nan_value;
    const std::vector<float> scale = {0.1f, 0.02f, 0.5f, 0.01f, 0.3f};
    const std::vector<int32_t> zero_point = {0, 128, 255, 4, 77};
    for (const Path& path : paths()) {
      std::vector<uint8_t> codes(static_cast<size_t>(rows * ldc), 9), flags(5, 9);
      QuantizeRows q;
      q.input = x.data();
      q.columns = columns;
      q.ld_input = ld;
      q.scale = scale.data();
      q.zero_point = zero_point.data();
      q.stride = 1;
      q.codes = codes.data();
      q.ld_codes = ldc;
      q.nan_rows = flags.data();
      path.rows(q, 0, 2);
      path.rows(q, 2, rows);
      for (int64_t i = 0; i < rows; ++i) {
        const auto r = static_cast<size_t>(i);
        EXPECT_EQ(flags[r], i == 3 && columns > 0 ? 1 : 0) << path.name << " columns " << columns;
        for (int64_t j = 0; j < ldc; ++j) {
          const int want = j < columns
              ? expected(x[static_cast<size_t>(i * ld + j)], scale[r], zero_point[r], 0.0f, 255.0f).code : 0;
          ASSERT_EQ(codes[static_cast<size_t>(i * ldc + j)], want) << path.name;
        }
      }
    }
  }
}

TEST(QuantizePack, CodesSumsAndMask) {
  std::mt19937 random(4);
  std::normal_distribution<float> value(0.0f, 1.0f);
  for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {3, 70}, {64, 64}, {65, 257}, {130, 300}, {17, 9}, {2, 66000}}) {
    std::vector<float> w(static_cast<size_t>(n * k)), scale;
    for (float& x : w) x = value(random);
    w[0] = nan_value;
    for (int64_t i = 0; i < n; ++i) scale.push_back(0.01f + 0.001f * static_cast<float>(i));
    const int64_t ld_mask = (k + 7) / 8, n_padded = padded64(n);
    for (const Path& path : paths()) {
      std::vector<int8_t> panels(static_cast<size_t>(n_padded * padded64(k)), 5), codes(w.size());
      std::vector<int32_t> sums(static_cast<size_t>(n_padded * segment_count(k)), 5);
      std::vector<uint8_t> mask(static_cast<size_t>(n * ld_mask));
      const PackedS8 packed{n, k, panels.data(), sums.data()};
      QuantizeWeights q;
      q.weight = w.data();
      q.scale = scale.data();
      q.stride = 1;
      q.mask = mask.data();
      path.pack(q, packed, 0, n_padded / 64);
      unpack_s8(panels.data(), n, k, codes.data());
      for (int64_t i = 0; i < n; ++i) {
        std::vector<int64_t> sum(static_cast<size_t>(segment_count(k)));
        for (int64_t j = 0; j < k; ++j) {
          const Expected e = expected(w[static_cast<size_t>(i * k + j)], scale[static_cast<size_t>(i)], 0, -127.0f, 127.0f);
          ASSERT_EQ(codes[static_cast<size_t>(i * k + j)], e.code) << path.name;
          ASSERT_EQ((mask[static_cast<size_t>(i * ld_mask + j / 8)] >> (j % 8)) & 1, e.inside ? 1 : 0) << path.name;
          sum[static_cast<size_t>(j / kSegment)] += e.code;
        }
        for (size_t s = 0; s < sum.size(); ++s) {
          ASSERT_EQ(sums[s * static_cast<size_t>(n_padded) + static_cast<size_t>(i)], sum[s]) << path.name;
        }
      }
    }
  }
}

// The scale taken from the row itself: ties lie where rows are filled with them, and nothing is masked but what is not finite.
TEST(QuantizePack, ScalesOfTheRowsThemselves) {
  for (float scale : {0.1f, 0.0078431377f, 1.0f, 1.7e-5f, 2.5e36f, 1.5e-38f}) {
    std::vector<float> row;
    for (float x : near_ties(scale)) {
      if (std::fabs(x) <= 127.0f * scale) row.push_back(x);
    }
    row.push_back(127.0f * scale);
    const auto k = static_cast<int64_t>(row.size());
    const int64_t n = 3, ld_mask = (k + 7) / 8;
    std::vector<float> w;
    for (int64_t i = 0; i < n; ++i) w.insert(w.end(), row.begin(), row.end());
    w[static_cast<size_t>(k)] = inf;
    w[static_cast<size_t>(2 * k - 1)] = nan_value;
    for (const Path& path : paths()) {
      std::vector<int8_t> panels(static_cast<size_t>(64 * padded64(k))), codes(w.size());
      std::vector<int32_t> sums(64);
      std::vector<uint8_t> mask(static_cast<size_t>(n * ld_mask));
      std::vector<float> chosen(static_cast<size_t>(n));
      QuantizeWeights q;
      q.weight = w.data();
      q.chosen_scale = chosen.data();
      q.mask = mask.data();
      path.pack(q, {n, k, panels.data(), sums.data()}, 0, 1);
      unpack_s8(panels.data(), n, k, codes.data());
      for (int64_t i = 0; i < n; ++i) {
        float largest = 0.0f;
        for (int64_t j = 0; j < k; ++j) {
          const float x = std::fabs(w[static_cast<size_t>(i * k + j)]);
          if (x <= std::numeric_limits<float>::max()) largest = std::max(largest, x);
        }
        const float s = std::max(largest / 127.0f, std::numeric_limits<float>::min());
        ASSERT_EQ(chosen[static_cast<size_t>(i)], s) << path.name;
        for (int64_t j = 0; j < k; ++j) {
          const Expected e = expected(w[static_cast<size_t>(i * k + j)], s, 0, -127.0f, 127.0f);
          ASSERT_EQ(codes[static_cast<size_t>(i * k + j)], e.code) << path.name << " scale " << s;
          ASSERT_EQ((mask[static_cast<size_t>(i * ld_mask + j / 8)] >> (j % 8)) & 1, e.inside ? 1 : 0) << path.name;
        }
      }
    }
  }
}

TEST(QuantizeGroups, CodesMasksAndScales) {
  for (int64_t group : {16, 32, 48, 128}) {
    for (float scale : {0.1f, 0.0078431377f, 1.0f, 3.0e-39f, 1.17549435e-38f, 2.5e38f, 0.99999994f}) {
      std::vector<float> x = near_ties(scale);
      x.push_back(nan_value);
      x.resize(x.size() / static_cast<size_t>(group) * static_cast<size_t>(group));
      const int64_t groups = static_cast<int64_t>(x.size()) / group;
      const std::vector<float> scales(static_cast<size_t>(groups), scale);
      for (const Path& path : paths()) {
        std::vector<int8_t> codes(x.size(), 99);
        std::vector<uint8_t> mask(x.size() / 8);
        QuantizeRows q;
        q.input = x.data();
        q.columns = q.ld_input = q.ld_codes = group;
        q.scale = scales.data();
        q.stride = 1;
        q.quant_min = -8.0f;
        q.quant_max = 7.0f;
        q.codes = reinterpret_cast<uint8_t*>(codes.data());
        q.signed_codes = true;
        q.mask = mask.data();
        q.ld_mask = group / 8;
        path.groups(q, 0, 1);
        path.groups(q, 1, groups);
        for (size_t i = 0; i < x.size(); ++i) {
          const Expected e = expected(x[i], scale, 0, -8.0f, 7.0f);
          ASSERT_EQ(codes[i], e.code) << path.name << " x " << x[i] << " scale " << scale;
          ASSERT_EQ((mask[i / 8] >> (i % 8)) & 1, e.inside ? 1 : 0) << path.name << " x " << x[i] << " scale " << scale;
        }
        std::vector<float> finite = x, found(static_cast<size_t>(groups), -1.0f);
        for (float& v : finite) v = std::isfinite(v) ? v : 0.0f;
        std::fill(finite.begin(), finite.begin() + group, 0.0f);  // a group without values has the scale 1
        GroupScales g;
        g.input = finite.data();
        g.group = group;
        g.quant_min = -8.0f;
        g.quant_max = 7.0f;
        g.scale = found.data();
        ASSERT_TRUE(path.group_scales(g, 0, groups)) << path.name;
        for (int64_t i = 0; i < groups; ++i) {
          float largest = 0.0f;
          for (int64_t j = 0; j < group; ++j) largest = std::max(largest, std::fabs(finite[static_cast<size_t>(i * group + j)]));
          const float wanted = largest == 0.0f ? 1.0f : std::max(largest / 7.0f, std::numeric_limits<float>::min());
          ASSERT_EQ(found[static_cast<size_t>(i)], wanted) << path.name;
        }
        for (float bad : {inf, -inf, nan_value}) {
          finite.back() = bad;
          EXPECT_FALSE(path.group_scales(g, 0, groups)) << path.name;
        }
      }
    }
  }
}

}  // namespace

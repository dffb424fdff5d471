// The limb kernels of the backward on every supported path: splitting, corrections, products and masks against int64 loops.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cpu/kernels/gemm_grad.h"
#include "cpu/kernels/gemm_groups.h"
#include "cpu/kernels/grad_limbs.h"
#include "cpu/kernels/grad_panels.h"
#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/panels.h"
#include "numerics/limbs.h"
#include "supported_paths.h"

using namespace torchqat::cpu;
namespace numerics = torchqat::numerics;

namespace {

struct Path {
  const char* name;
  GradStatsFn stats;
  SplitRowsFn rows;
  SplitColumnsFn columns;
  CodesToPanelsFn code_panels;
  WeightToPanelsFn weight_panels;
  GemmGradFn gemm;
};

std::vector<Path> paths() {
  return supported_paths<Path>({
      {"scalar", grad_stats_scalar, split_rows_scalar, split_columns_scalar, codes_to_panels_scalar,
       weight_to_panels_scalar, gemm_limbs_scalar},
      {"avx2", grad_stats_avx2, split_rows_avx2, split_columns_avx2, codes_to_panels_avx2, weight_to_panels_avx2,
       gemm_limbs_avx2},
      {"avxvnni", grad_stats_avx2, split_rows_avx2, split_columns_avx2, codes_to_panels_avx2, weight_to_panels_avx2,
       gemm_limbs_avxvnni},
      {"avx512", grad_stats_avx512, split_rows_avx512, split_columns_avx512, codes_to_panels_avx512,
       weight_to_panels_avx512, gemm_limbs_avx512},
      {"amx", grad_stats_avx512, split_rows_avx512, split_columns_avx512, codes_to_panels_avx512,
       weight_to_panels_avx512, gemm_limbs_amx}});
}

size_t at(int64_t i) { return static_cast<size_t>(i); }

struct Problem {
  int64_t m, n, k;
  std::vector<float> dy, weight_scale;
  std::vector<uint8_t> codes;  // [m, padded k]
  std::vector<int8_t> weight;  // [n, k]
  std::vector<int32_t> zero_point;

  Problem(int64_t m_, int64_t n_, int64_t k_, bool extreme) : m(m_), n(n_), k(k_) {
    std::mt19937 random(static_cast<unsigned>(m * 31 + n * 7 + k));
    std::normal_distribution<float> value;
    for (int64_t i = 0; i < m * n; ++i) dy.push_back(extreme ? -1.0f : value(random));
    for (int64_t j = 0; j < n; ++j) weight_scale.push_back(extreme ? 1.0f : 0.01f + 0.001f * static_cast<float>(j % 9));
    codes.assign(at(m * padded64(k)), 0);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < k; ++j) codes[at(i * padded64(k) + j)] = extreme ? 255 : static_cast<uint8_t>(random());
      zero_point.push_back(extreme ? 0 : static_cast<int32_t>(random() % 256));
    }
    for (int64_t i = 0; i < n * k; ++i) weight.push_back(extreme ? -128 : static_cast<int8_t>(random()));
  }
};

void check(int64_t m, int64_t n, int64_t k, bool extreme = false) {
  const Problem p(m, n, k, extreme);
  const int64_t k_padded = padded64(k), chunks = (n + kGradChunk - 1) / kGradChunk;
  std::vector<int8_t> forward(at(padded64(n) * k_padded));
  std::vector<int32_t> sums(at(padded64(n) * segment_count(k)));
  pack_s8_scalar(p.weight.data(), {n, k, forward.data(), sums.data()}, 0, padded64(n) / 64);
  std::vector<uint8_t> mask(at(m * ((k + 7) / 8)), 0xb5);
  GradSource source;
  source.grad = p.dy.data();
  source.m = m;
  source.n = n;
  source.column_factor = p.weight_scale.data();
  source.column_stride = 1;
  for (const Path& path : paths()) {
    std::vector<float> row_max(at(chunks * m)), column_max(at(n)), column_sum(at(n));
    path.stats(source, {row_max.data(), column_max.data(), column_sum.data()}, 0, chunks);
    std::vector<float> row_scale, row_inverse, column_scale, column_inverse;
    for (int64_t i = 0; i < m; ++i) {
      float largest = 0.0f;
      for (int64_t j = 0; j < n; ++j) largest = std::max(largest, std::fabs(p.dy[at(i * n + j)] * p.weight_scale[at(j)]));
      float got = 0.0f;
      for (int64_t c = 0; c < chunks; ++c) got = std::max(got, row_max[at(c * m + i)]);
      ASSERT_EQ(got, largest) << path.name;
      row_scale.push_back(numerics::limb_scale(largest));
      row_inverse.push_back(numerics::limb_inverse(largest));
    }
    for (int64_t j = 0; j < n; ++j) {
      float largest = 0.0f;
      double sum = 0.0;
      for (int64_t i = 0; i < m; ++i) {
        largest = std::max(largest, std::fabs(p.dy[at(i * n + j)]));
        sum += p.dy[at(i * n + j)];
      }
      ASSERT_EQ(column_max[at(j)], largest) << path.name;
      ASSERT_NEAR(column_sum[at(j)], sum, 1e-5 * static_cast<double>(m)) << path.name;
      column_scale.push_back(numerics::limb_scale(largest));
      column_inverse.push_back(numerics::limb_inverse(largest));
    }

    // dx: rows of dy * s_w times the weight.
    const int64_t n_padded = padded64(n), m_padded = padded64(m);
    std::vector<uint8_t> limbs(at(2 * std::max(m * n_padded, n * m_padded)), 0xee);
    std::vector<int32_t> corrections(at(2 * std::max(m * segment_count(n), n * segment_count(m))));
    LimbLines lines;
    lines.high = limbs.data();
    lines.low = limbs.data() + m * n_padded;
    lines.ld = n_padded;
    lines.inverse = row_inverse.data();
    lines.sums = corrections.data();
    lines.weight = 128;
    path.rows(source, lines, 0, m);
    std::vector<uint8_t> panels(at(k_padded * std::max(n_padded, m_padded)));
    path.weight_panels(forward.data(), n, k, panels.data(), 0, k_padded / 64);
    std::vector<float> out(at(std::max(m, n) * k), -7.0f);
    GemmGrad g;
    g.m = m;
    g.n = g.ldo = k;
    g.reduction_bytes = g.lda = n_padded;
    g.used_bytes = n;
    g.a_high = lines.high;
    g.a_low = lines.low;
    g.panels = panels.data();
    g.corrections = corrections.data();
    g.row_scale = row_scale.data();
    g.out = out.data();
    g.mask = mask.data();
    g.ld_mask = (k + 7) / 8;
    path.gemm(g, 0, m, 0, k_padded / 64);
    const auto limb = [](float v, float inverse) { return static_cast<int64_t>(numerics::limb_value(v, inverse)); };
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        int64_t exact = 0;
        for (int64_t t = 0; t < n; ++t) {
          exact += limb(p.dy[at(i * n + t)] * p.weight_scale[at(t)], row_inverse[at(i)]) * p.weight[at(t * k + j)];
        }
        const bool kept = (0xb5 >> (j % 8)) & 1;
        const double wanted = kept ? static_cast<double>(exact) * row_scale[at(i)] : 0.0;
        ASSERT_NEAR(out[at(i * k + j)], wanted, 1e-6 * std::fabs(wanted) + 1e-30 +
                    1e-6 * row_scale[at(i)] * 32639.0 * 128.0) << path.name << " dx " << m << " " << n << " " << k;
      }
    }

    // dW: columns of dy times the codes less their row's zero point.
    lines.low = limbs.data() + n * m_padded;
    lines.ld = m_padded;
    lines.inverse = column_inverse.data();
    lines.weights = p.zero_point.data();
    path.columns(source, lines, 0, n_padded / 64);
    path.code_panels(p.codes.data(), m, k_padded, k, panels.data(), 0, k_padded / 64);
    g.m = n;
    g.reduction_bytes = g.lda = m_padded;
    g.used_bytes = m;
    g.a_low = lines.low;
    g.row_scale = column_scale.data();
    g.factor = 0.5f;
    g.mask = nullptr;
    path.gemm(g, 0, n, 0, k_padded / 64);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t c = 0; c < k; ++c) {
        int64_t exact = 0;
        for (int64_t i = 0; i < m; ++i) {
          exact += limb(p.dy[at(i * n + j)], column_inverse[at(j)]) *
                   (p.codes[at(i * k_padded + c)] - p.zero_point[at(i)]);
        }
        const double wanted = static_cast<double>(exact) * column_scale[at(j)] * 0.5;
        ASSERT_NEAR(out[at(j * k + c)], wanted, 1e-6 * std::fabs(wanted) + 1e-6 * column_scale[at(j)] * 32639.0 * 255.0)
            << path.name << " dW " << m << " " << n << " " << k;
      }
    }
  }
}

struct GroupsPath {
  const char* name;
  RowsToS16Fn rows;
  ScalesToS16Fn scales;
  CodesToBlocksFn blocks;
  GemmGradFn gemm;
};

// dx = dy W with the weight in groups: the integers against int64 loops.
void check_groups(int64_t m, int64_t n, int64_t k, int64_t group, bool extreme = false) {
  const Problem p(m, n, k, extreme);
  const int64_t n_padded = padded64(n), ld = n_padded + 32;
  std::vector<float> scale, row_scale, row_inverse;
  const GroupedCodes shape{nullptr, nullptr, n, k, group};
  const int64_t groups = shape.groups(), count = shape.blocks();
  for (int64_t i = 0; i < n * groups; ++i) scale.push_back(extreme ? 1.0f : 0.01f + 0.001f * static_cast<float>(i % 7));
  for (int64_t i = 0; i < m; ++i) {
    float largest = 0.0f;
    for (int64_t j = 0; j < n; ++j) largest = std::max(largest, std::fabs(p.dy[at(i * n + j)]));
    row_scale.push_back(numerics::limb_scale(largest));
    row_inverse.push_back(numerics::limb_inverse(largest));
  }
  const GroupedCodes w{p.weight.data(), scale.data(), n, k, group};
  const std::vector<uint8_t> mask(at(m * ((k + 7) / 8)), 0xb5);
  GradSource source;
  source.grad = p.dy.data();
  source.m = m;
  source.n = n;
  for (const GroupsPath& path : supported_paths<GroupsPath>(
           {{"scalar", rows_to_s16_scalar, scales_to_s16_scalar, codes_to_blocks_scalar, gemm_groups_scalar},
            {"avx2", rows_to_s16_avx2, scales_to_s16_avx2, codes_to_blocks_avx2, gemm_groups_avx2},
            {"avxvnni", rows_to_s16_avx2, scales_to_s16_avx2, codes_to_blocks_avx2, gemm_groups_avxvnni},
            {"avx512", rows_to_s16_avx512, scales_to_s16_avx512, codes_to_blocks_avx512, gemm_groups_avx512}})) {
    std::vector<int16_t> rows(at(m * ld), 77), scales(at(groups * n_padded), 77), blocks(at(count * 32 * n_padded), 77);
    std::vector<float> units(at(groups)), out(at(m * k), -7.0f);
    path.rows(source, row_inverse.data(), rows.data(), ld, 0, m);
    path.scales(w, scales.data(), units.data(), 0, groups);
    // In two parts, as a caller that makes a few blocks at a time.
    path.blocks(w, blocks.data(), 0, count / 2);
    path.blocks(w, blocks.data() + count / 2 * 32 * n_padded, count / 2, count);
    GemmGrad g;
    g.m = m;
    g.n = g.ldo = k;
    g.reduction_bytes = 2 * n_padded;
    g.lda = 2 * ld;
    g.a_high = reinterpret_cast<const uint8_t*>(rows.data());
    g.panels = reinterpret_cast<const uint8_t*>(blocks.data());
    g.group = group;
    g.group_scales = scales.data();
    g.group_units = units.data();
    g.row_scale = row_scale.data();
    g.mask = mask.data();
    g.ld_mask = (k + 7) / 8;
    g.out = out.data();
    path.gemm(g, 0, m, 0, count);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t of = j / group;
      float most = 0.0f;
      for (int64_t t = 0; t < n; ++t) most = std::max(most, scale[at(t * groups + of)]);
      ASSERT_EQ(units[at(of)], numerics::limb_scale(most) * 32768.0f) << path.name;
      for (int64_t i = 0; i < m; ++i) {
        int64_t exact = 0;
        for (int64_t t = 0; t < n; ++t) {
          const auto a = static_cast<int64_t>(numerics::limb_value(p.dy[at(i * n + t)], row_inverse[at(i)]));
          const auto b = static_cast<int64_t>(numerics::limb_value(scale[at(t * groups + of)], numerics::limb_inverse(most)));
          exact += ((a * b + (1 << 14)) >> 15) * p.weight[at(t * k + j)];
        }
        const double unit = static_cast<double>(row_scale[at(i)]) * units[at(of)];
        const double wanted = (0xb5 >> (j % 8)) & 1 ? static_cast<double>(exact) * unit : 0.0;
        ASSERT_NEAR(out[at(i * k + j)], wanted, 1e-6 * std::fabs(wanted) + 1e-6 * unit * 32639.0 * 128.0)
            << path.name << " " << m << " " << n << " " << k << " " << group;
      }
    }
  }
}

TEST(GemmGrad, GroupsAtTileEdges) {
  for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 12, 13, 17, 24, 97}) check_groups(m, 32, 40, 32);
  for (int64_t n : {1, 2, 3, 63, 64, 65, 130, 511, 513, 1100}) check_groups(7, n, 70, 32);
  for (int64_t k : {1, 31, 32, 33, 64, 65, 330, 500}) check_groups(5, 18, k, 64);
  for (int64_t group : {1, 3, 8, 24, 48, 1000}) check_groups(3, 9, 100, group);
  check_groups(5, 2000, 33, 33, true);
}

TEST(GemmGrad, LimbsAtTileEdges) {
  for (int64_t m : {1, 2, 3, 4, 7, 15, 16, 17, 33, 63, 64, 65}) check(m, 32, 20);
  for (int64_t n : {1, 5, 15, 16, 17, 48, 63, 64, 65, 130}) check(6, n, 9);
  for (int64_t k : {1, 7, 8, 63, 64, 65, 130}) check(5, 16, k);
  for (int64_t m : {5, 8, 31, 32}) check(m, 67, 130);  // short reductions of dW, whole and partial blocks of rows
}

TEST(GemmGrad, SegmentsAndExtremes) {
  check(65536 + 70, 1, 2, true);
  check(2, 65536 + 64, 2, true);
  check(1025, 1, 1);
}

TEST(GemmGrad, WhatIsNotFiniteIsSeenInItsRowAndColumn) {
  for (const Path& path : paths()) {
    for (float bad : {std::nanf(""), -HUGE_VALF}) {
      std::vector<float> dy(40, 0.5f), row_max(4), column_max(10);
      dy[13] = bad;
      const float factor = 2.0f;
      GradSource source;
      source.grad = dy.data();
      source.m = 4;
      source.n = 10;
      source.column_factor = &factor;
      path.stats(source, {row_max.data(), column_max.data(), nullptr}, 0, 1);
      for (size_t i = 0; i < 4; ++i) EXPECT_EQ(std::isnan(numerics::limb_scale(row_max[i])), i == 1) << path.name;
      for (size_t j = 0; j < 10; ++j) EXPECT_EQ(std::isnan(numerics::limb_scale(column_max[j])), j == 3) << path.name;
    }
  }
}

}  // namespace

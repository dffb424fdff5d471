// The integer GEMM family on every supported path against plain integer loops: packing, products, epilogues.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/kernels/gemm_u8s8.h"
#include "cpu/kernels/pack_s8.h"
#include "cpu/kernels/panels.h"
#include "supported_paths.h"

using namespace torchqat::cpu;

namespace {

struct Path {
  const char* name;
  GemmU8S8Fn gemm;
  PackS8Fn pack;
};

std::vector<Path> paths() {
  return supported_paths<Path>({{"scalar", gemm_u8s8_scalar, pack_s8_scalar},
                                {"avx2", gemm_u8s8_avx2, pack_s8_avx2},
                                {"avxvnni", gemm_u8s8_avxvnni, pack_s8_avx2},
                                {"avx512", gemm_u8s8_avx512, pack_s8_avx512},
                                {"amx", gemm_u8s8_amx, pack_s8_avx512}});
}

// The sum at its ends: a - z is 255 (above) or -255 (below), weights all highest or all lowest.
// symmetric: random, without a weight of -128 but in column 20.
enum class Fill { random, symmetric, above_high, above_low, below_high, below_low };

struct Problem {
  int64_t m, n, k, k_padded, lda;
  std::vector<uint8_t> a;
  std::vector<int8_t> b;  // [n, k]
  std::vector<int32_t> zero_point;
  std::vector<float> a_scale, b_scale, bias;

  Problem(int64_t m_, int64_t n_, int64_t k_, Fill fill, unsigned seed)
      : m(m_), n(n_), k(k_), k_padded(padded64(k_)), lda(k_padded) {
    std::mt19937 random(seed);
    const bool above = fill == Fill::above_high || fill == Fill::above_low;
    const bool high = fill == Fill::above_high || fill == Fill::below_high;
    const auto pick = [&](int least, int most, bool highest) {
      if (fill > Fill::symmetric) return highest ? most : least;
      return least + static_cast<int>(random() % static_cast<unsigned>(most - least + 1));
    };
    a.assign(static_cast<size_t>(m * lda), 0xAB);  // bytes beyond K may be anything
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < k; ++j) a[static_cast<size_t>(i * lda + j)] = static_cast<uint8_t>(pick(0, 255, above));
    }
    const int least = fill == Fill::symmetric ? -127 : -128;
    for (int64_t i = 0; i < n * k; ++i) b.push_back(static_cast<int8_t>(pick(least, 127, high)));
    if (fill == Fill::symmetric && n > 20) b[static_cast<size_t>(20 * k + k / 2)] = -128;
    std::uniform_real_distribution<float> scale(0.001f, 0.1f), value(-1.0f, 1.0f);
    for (int64_t i = 0; i < m; ++i) {
      zero_point.push_back(pick(0, 255, !above));
      a_scale.push_back(scale(random));
    }
    for (int64_t j = 0; j < n; ++j) {
      b_scale.push_back(scale(random));
      bias.push_back(value(random));
    }
  }

  float expected(int64_t i, int64_t j) const {
    float total = 0.0f;
    for (int64_t start = 0; start < k; start += kSegment) {
      int64_t acc = 0;
      for (int64_t t = start; t < std::min(k, start + kSegment); ++t) {
        acc += (static_cast<int64_t>(a[static_cast<size_t>(i * lda + t)]) - zero_point[static_cast<size_t>(i)]) *
               b[static_cast<size_t>(j * k + t)];
      }
      const auto part = static_cast<float>(acc);
      total = start == 0 ? part : total + part;
    }
    const float scale = a_scale[static_cast<size_t>(i)] * b_scale[static_cast<size_t>(j)];
    const float product = total * scale;
    return product + bias[static_cast<size_t>(j)];
  }
};

struct Panels {
  std::vector<int8_t> panels;
  std::vector<int32_t> sums;
};

Panels pack(const Path& path, const Problem& p) {
  Panels out;
  out.panels.assign(static_cast<size_t>(padded64(p.n) * p.k_padded), 77);
  out.sums.assign(static_cast<size_t>(padded64(p.n) * segment_count(p.k)), 77);
  const PackedS8 packed{p.n, p.k, out.panels.data(), out.sums.data()};
  path.pack(p.b.data(), packed, 0, padded64(p.n) / 64);
  return out;
}

GemmU8S8 arguments(const Problem& p, const Panels& panels, std::vector<float>& y) {
  y.assign(static_cast<size_t>(p.m * p.n), -777.0f);
  GemmU8S8 g;
  g.m = p.m;
  g.n = p.n;
  g.k_padded = p.k_padded;
  g.a = p.a.data();
  g.lda = p.lda;
  g.panels = panels.panels.data();
  g.column_sums = panels.sums.data();
  g.a_zero_point = p.zero_point.data();
  g.a_scale = p.a_scale.data();
  g.a_stride = 1;
  g.b_scale = p.b_scale.data();
  g.b_stride = 1;
  g.bias = p.bias.data();
  g.out = y.data();
  g.ldo = p.n;
  return g;
}

void check(int64_t m, int64_t n, int64_t k, Fill fill) {
  const Problem p(m, n, k, fill, static_cast<unsigned>(m * 7919 + n * 31 + k));
  for (const Path& path : paths()) {
    const Panels panels = pack(path, p);
    std::vector<int8_t> codes(p.b.size());
    unpack_s8(panels.panels.data(), n, k, codes.data());
    ASSERT_EQ(codes, p.b) << path.name;
    std::vector<float> y;
    const GemmU8S8 g = arguments(p, panels, y);
    path.gemm(g, 0, m, 0, padded64(n) / 64);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        ASSERT_EQ(y[static_cast<size_t>(i * n + j)], p.expected(i, j))
            << path.name << " m " << m << " n " << n << " k " << k << " at " << i << ", " << j;
      }
    }
  }
}

TEST(GemmU8S8, TileEdges) {
  for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 31, 32, 33, 65}) check(m, 65, 67, Fill::random);
  for (int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 127, 130}) check(7, n, 64, Fill::random);
  for (int64_t k : {1, 2, 3, 4, 5, 63, 64, 65, 255, 256, 257, 512}) check(6, 66, k, Fill::random);
  for (int64_t m : {1, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 42, 65}) check(m, 65, 67, Fill::symmetric);
  for (int64_t k : {1, 63, 65, 1024, 1030, 2500}) check(19, 66, k, Fill::symmetric);
}

TEST(GemmU8S8, ExtremesDoNotOverflow) {
  for (Fill fill : {Fill::above_high, Fill::above_low, Fill::below_high, Fill::below_low}) {
    check(7, 3, 1024, fill);
    check(2, 2, 65536, fill);
    check(7, 2, 65536, fill);
    check(1, 2, 65536, fill);
    check(33, 2, 65536, fill);
  }
}

TEST(GemmU8S8, SegmentsAreAddedInFloat) {
  check(2, 3, 65537, Fill::random);
  check(17, 2, 2 * 65536 + 100, Fill::random);
  check(1, 2, 2 * 65536 + 100, Fill::above_low);
}

TEST(GemmU8S8, RangesOfRowsAndPanelsGiveTheSameBits) {
  const Problem p(37, 200, 130, Fill::random, 5);
  for (const Path& path : paths()) {
    const Panels panels = pack(path, p);
    std::vector<float> whole, parts;
    const GemmU8S8 g = arguments(p, panels, whole);
    path.gemm(g, 0, p.m, 0, 4);
    const GemmU8S8 h = arguments(p, panels, parts);
    for (int64_t i = 0; i < p.m; i += 5) {
      for (int64_t q = 0; q < 4; ++q) path.gemm(h, i, std::min<int64_t>(p.m, i + 5), q, q + 1);
    }
    EXPECT_EQ(whole, parts) << path.name;
  }
}

// Rows that share a scale and a zero point: floats with and without a bias, codes.
TEST(GemmU8S8, OneScaleForAllRows) {
  Problem p(41, 200, 132, Fill::random, 17);
  std::fill(p.zero_point.begin(), p.zero_point.end(), 77);
  std::fill(p.a_scale.begin(), p.a_scale.end(), 0.25f);
  for (int64_t j = 0; j < 64; ++j) {  // powers of two: exact quotients, a tie among them here and there
    p.b_scale[static_cast<size_t>(j)] = 1.0f / 4096.0f;
    p.bias[static_cast<size_t>(j)] = 0.0f;
  }
  std::vector<uint8_t> nan_rows(41, 0);
  nan_rows[7] = 1;
  for (const Path& path : paths()) {
    const Panels panels = pack(path, p);
    std::vector<float> y;
    GemmU8S8 g = arguments(p, panels, y);
    g.a_stride = 0;
    g.nan_rows = nan_rows.data();
    path.gemm(g, 0, p.m, 0, 4);
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        const float value = y[static_cast<size_t>(i * p.n + j)];
        if (i == 7) ASSERT_TRUE(std::isnan(value)) << path.name;
        else ASSERT_EQ(value, p.expected(i, j)) << path.name << " at " << i << ", " << j;
      }
    }
    std::vector<uint8_t> codes(y.size(), 99);
    g.output = GemmOutput::codes;
    g.out = codes.data();
    g.out_zero_point = 100.0f;
    for (const float scale : {1.0f / 8.0f, 0.37f}) {
      g.out_scale = scale;
      path.gemm(g, 0, p.m, 0, 4);
      for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t j = 0; j < p.n; ++j) {
          const float code = std::clamp(std::nearbyintf(p.expected(i, j) / scale) + 100.0f, 0.0f, 255.0f);
          ASSERT_EQ(codes[static_cast<size_t>(i * p.n + j)], i == 7 ? 100 : static_cast<int>(code)) << path.name;
        }
      }
    }
    g.output = GemmOutput::float32;
    g.out = y.data();
    g.bias = nullptr;
    path.gemm(g, 0, p.m, 0, 4);
    for (int64_t j = 0; j < 64; ++j) EXPECT_EQ(y[static_cast<size_t>(j)], p.expected(0, j)) << path.name;
  }
}

TEST(GemmU8S8, NanRowsAndCodes) {
  const Problem p(9, 70, 100, Fill::random, 11);
  std::vector<uint8_t> nan_rows(9, 0);
  nan_rows[4] = 1;
  for (const Path& path : paths()) {
    const Panels panels = pack(path, p);
    std::vector<float> y;
    GemmU8S8 g = arguments(p, panels, y);
    g.nan_rows = nan_rows.data();
    path.gemm(g, 0, p.m, 0, 2);
    for (int64_t j = 0; j < p.n; ++j) EXPECT_TRUE(std::isnan(y[static_cast<size_t>(4 * p.n + j)])) << path.name;
    EXPECT_EQ(y[0], p.expected(0, 0));
    std::vector<uint8_t> codes(y.size(), 99);
    for (bool relu : {false, true}) {
      g.output = GemmOutput::codes;
      g.out = codes.data();
      g.out_scale = 0.37f;
      g.out_zero_point = 100.0f;
      g.out_min = 10.0f;
      g.out_max = 240.0f;
      g.relu = relu;
      path.gemm(g, 0, p.m, 0, 2);
      for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t j = 0; j < p.n; ++j) {
          float value = p.expected(i, j);
          if (relu && value < 0.0f) value = 0.0f;
          float code = std::nearbyintf(value / 0.37f) + 100.0f;
          code = std::min(240.0f, std::max(10.0f, code));
          ASSERT_EQ(codes[static_cast<size_t>(i * p.n + j)], i == 4 ? 100 : static_cast<int>(code)) << path.name;
        }
      }
    }
  }
}

}  // namespace

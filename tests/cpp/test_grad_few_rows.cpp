// A weight's gradient from few rows: against sums in double, and the same bits on every path and for every split of the lines.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cpu/kernels/grad_few_rows.h"
#include "cpu/kernels/panels.h"
#include "supported_paths.h"

using namespace torchqat::cpu;

namespace {

size_t at(int64_t i) { return static_cast<size_t>(i); }

struct Path {
  const char* name;
  FewRowsGradFn run;
};

std::vector<Path> paths() {
  return supported_paths<Path>({{"scalar", grad_few_rows_scalar}, {"avx2", grad_few_rows_avx2}, {"avx512", grad_few_rows_avx512}});
}

void check(int64_t m, int64_t n, int64_t k, bool by_row, bool masked) {
  std::mt19937 random(static_cast<unsigned>(m * 31 + n * 7 + k));
  std::normal_distribution<float> value;
  std::vector<float> dy, row_factor;
  std::vector<int32_t> zero_point;
  std::vector<uint8_t> codes(at(m * padded64(k)), 0xee), mask(at(n * ((k + 7) / 8)));
  for (int64_t i = 0; i < m * n; ++i) dy.push_back(value(random));
  for (int64_t i = 0; i < m; ++i) {
    row_factor.push_back(0.5f + static_cast<float>(i));
    zero_point.push_back(static_cast<int32_t>(random() % 256));
    for (int64_t c = 0; c < k; ++c) codes[at(i * padded64(k) + c)] = static_cast<uint8_t>(random());
  }
  for (auto& bits : mask) bits = static_cast<uint8_t>(random());
  FewRowsGrad g;
  g.source.grad = dy.data();
  g.source.m = m;
  g.source.n = n;
  if (by_row) g.source.row_factor = row_factor.data();
  g.codes = codes.data();
  g.ld_codes = padded64(k);
  g.zero_point = zero_point.data();
  g.zero_stride = by_row ? 1 : 0;
  g.k = k;
  g.factor = 0.75f;
  if (masked) {
    g.mask = mask.data();
    g.ld_mask = (k + 7) / 8;
  }
  std::vector<float> first;
  for (const Path& path : paths()) {
    // Aligned: else nothing is written past the cache.
    std::vector<float> memory(at(n * k + 17), -7.0f);
    float* const out = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / sizeof(float);
    g.out = out;
    path.run(g, 0, n / 3);
    path.run(g, n / 3, n);
    ASSERT_EQ(out[at(n * k)], -7.0f) << path.name;
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t c = 0; c < k; ++c) {
        double wanted = 0.0, size = 0.0;
        for (int64_t i = 0; i < m; ++i) {
          const double term = static_cast<double>(dy[at(i * n + j)]) * (by_row ? row_factor[at(i)] : 1.0f) *
                              (codes[at(i * padded64(k) + c)] - zero_point[by_row ? at(i) : 0]) * 0.75;
          wanted += term;
          size += std::fabs(term);
        }
        if (masked && (mask[at(j * ((k + 7) / 8) + c / 8)] >> (c % 8) & 1) == 0) wanted = size = 0.0;
        ASSERT_NEAR(out[at(j * k + c)], wanted, 1e-6 * size) << path.name << " " << m << " " << n << " " << k;
      }
    }
    if (first.empty()) first.assign(out, out + n * k);
    ASSERT_TRUE(std::equal(first.begin(), first.end(), out)) << path.name;
  }
}

TEST(GradFewRows, EveryPathAtEdges) {
  for (int64_t m = 1; m <= kFewRows; ++m) {
    check(m, 5, 70, m % 2 == 0, m % 3 == 0);
    check(m, 2, 512, m % 2 == 1, false);
  }
  for (int64_t k : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 511, 513, 1030}) {
    check(6, 7, k, true, true);
    check(3, 3, k, false, false);
  }
  for (int64_t n : {1, 2, 3, 4, 9}) check(8, n, 33, true, true);
}

TEST(GradFewRows, PastTheCache) { check(2, 1025, 1024, false, true); }

}  // namespace

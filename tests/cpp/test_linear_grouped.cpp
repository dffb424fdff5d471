// The grouped linear kernels on every supported path against plain loops over the documented formulas.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/linear_grouped.h"

namespace torchqat::cpu {
namespace {

struct Aligned {
  explicit Aligned(int64_t bytes) : memory(static_cast<size_t>(bytes) + 64, 0xa5) {}
  uint8_t* get() { return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64; }
  std::vector<uint8_t> memory;
};

struct Case {
  int64_t m, n, k, group;
  int bits;
  bool zero_point = true, bias = true;
  // All codes at an end: 1: x - z = 255, q lowest; 2: -255, lowest; 3: -255, highest; 4: 255, highest.
  int extreme = 0;
  int most = 0;  // bytes that hold codes from -most to most - 1 only
};

struct Problem {
  Case c;
  GroupedLayout w;
  std::vector<int8_t> codes;
  std::vector<uint8_t> packed, x;
  std::vector<float> scale, input_scale, bias;
  std::vector<int32_t> zero_point;
  std::vector<uint8_t> nan_rows;

  explicit Problem(const Case& c_) : c(c_), w(grouped_layout(c.n, c.k, c.group, c.bits, true)) {
    std::mt19937 random(static_cast<unsigned>(c.m * 131 + c.n * 31 + c.k + c.group + c.bits));
    const int low = c.most != 0 ? -c.most : -(1 << (c.bits - 1)), high = -low - 1;
    std::uniform_int_distribution<int> code(low, high), byte(0, 255);
    std::uniform_real_distribution<float> real(0.01f, 1.0f);
    for (int64_t i = 0; i < c.n * c.k; ++i) codes.push_back(static_cast<int8_t>(c.extreme == 0 ? code(random) : c.extreme < 3 ? low : high));
    packed.resize(static_cast<size_t>(w.bytes()));
    grouped_pack(w, reinterpret_cast<const uint8_t*>(codes.data()), packed.data(), 0, w.panels);
    for (int64_t i = 0; i < (c.m + 16) * w.k_padded(); ++i) x.push_back(static_cast<uint8_t>(c.extreme == 0 ? byte(random) : c.extreme % 3 == 1 ? 255 : 0));
    for (int64_t i = 0; i < c.n * w.groups; ++i) scale.push_back(real(random));
    for (int64_t i = 0; i < c.m; ++i) {
      input_scale.push_back(real(random));
      zero_point.push_back(c.extreme == 0 ? (c.zero_point ? byte(random) : 128) : c.extreme % 3 == 1 ? 0 : 255);
      nan_rows.push_back(i % 5 == 4);
    }
    for (int64_t j = 0; j < c.n; ++j) bias.push_back(real(random) - 0.5f);
  }

  int32_t x_at(int64_t row, int64_t k) const {
    return x[static_cast<size_t>(row * w.k_padded() + k / w.group * w.group_padded + k % w.group)];
  }

  float wanted(int64_t i, int64_t j) const {
    if (nan_rows[i] != 0) return NAN;
    float t = 0.0f;
    for (int64_t g = 0; g < w.groups; ++g) {
      int64_t acc = 0;
      for (int64_t k = g * w.group; k < std::min(c.k, (g + 1) * w.group); ++k) {
        acc += static_cast<int64_t>(x_at(i, k) - zero_point[i]) * codes[j * c.k + k];
      }
      t = std::fma(static_cast<float>(acc), scale[j * w.groups + g], t);
    }
    const float y = t * input_scale[i];
    return c.bias ? y + bias[j] : y;
  }

  GroupedInt8 arguments(std::vector<float>& out) const {
    GroupedInt8 g;
    g.w = w;
    g.weight = packed.data();
    g.weight_most = c.most != 0 ? c.most : w.offset;
    g.scale = GroupedScale{scale.data(), ScaleType::float32, kGroupedColumns * w.groups, 1, w.groups};
    g.m = c.m;
    g.codes = x.data();
    g.lda = w.k_padded();
    g.input_scale = input_scale.data();
    g.zero_point = zero_point.data();
    g.input_stride = 1;
    g.nan_rows = nan_rows.data();
    g.bias = c.bias ? bias.data() : nullptr;
    g.out = out.data();
    g.ldo = c.n;
    return g;
  }
};

GroupedInt8Fn int8_path(const std::string& isa) {
  if (isa == "avxvnni") return grouped_int8_avxvnni;
  return isa == "amx" ? grouped_int8_amx : isa == "avx512" ? grouped_int8_avx512 : isa == "avx2" ? grouped_int8_avx2 : grouped_int8_scalar;
}
GroupedFloatFn float_path(const std::string& isa) {
  return isa == "amx" || isa == "avx512" ? grouped_float_avx512 : isa == "avx2" || isa == "avxvnni" ? grouped_float_avx2 : grouped_float_scalar;
}

bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, 4) == 0; }

const Case cases[] = {
    {1, 64, 32, 32, 4},   {1, 1, 1, 1, 4},       {1, 65, 33, 32, 4},   {1, 130, 100, 7, 4},      {1, 64, 256, 32, 4, false},
    {2, 63, 65, 64, 4},   {5, 64, 96, 32, 4},    {6, 70, 130, 40, 4},  {7, 128, 64, 128, 4},     {16, 64, 320, 32, 4},
    {17, 129, 200, 100, 4}, {33, 17, 31, 300, 4}, {300, 66, 64, 32, 4}, {9, 64, 1000, 1000, 4},
    {1, 66, 70, 32, 8},   {3, 66, 70, 32, 8},    {20, 64, 300, 150, 8}, {1, 65, 90, 33, 2},      {4, 65, 90, 33, 2},
    {1, 65, 90, 32, 3},   {19, 65, 90, 32, 3, true, false}, {17, 65, 330, 32, 3}, {18, 70, 320, 32, 2},
    {8, 64, 520, 60, 4},  {140, 64, 4096, 32, 4}, {24, 64, 640, 64, 2},  {15, 64, 288, 16, 4},  {1, 64, 32768, 32768, 8, true, true, 1},
    {1, 64, 32768, 32768, 8, true, true, 2}, {1, 64, 32768, 32768, 8, true, true, 3}, {2, 3, 32768, 32768, 8, true, true, 1},
    {2, 3, 32768, 32768, 8, true, true, 2}, {2, 3, 32768, 32768, 8, true, true, 3}, {2, 3, 4096, 4096, 4, true, true, 1},
    {2, 3, 65536, 32, 4, true, true, 4}, {1, 3, 65537, 32, 4, true, true, 2}, {18, 65, 512, 32, 4, true, true, 1},
    {18, 65, 512, 32, 4, true, true, 2}, {18, 65, 512, 32, 4, true, true, 3}, {18, 65, 512, 32, 4, true, true, 4},
    {3, 65, 512, 63, 4, true, true, 1},  {3, 65, 512, 63, 4, true, true, 3},  {17, 65, 512, 60, 2, true, true, 2},
    // Eight groups at a time, with and without a rest; bytes of few bits.
    {3, 64, 256, 32, 4},  {7, 129, 544, 32, 4},  {40, 65, 800, 32, 2},
    {3, 65, 512, 32, 8, true, true, 0, 8}, {35, 70, 800, 32, 8, true, true, 0, 8}, {35, 64, 512, 32, 8, true, true, 1, 15},
    {35, 64, 512, 32, 8, true, true, 3, 15}, {18, 64, 512, 32, 8, true, true, 2, 16}, {20, 64, 300, 60, 8, true, true, 0, 8},
    // Whole and broken tiles of rows, steps of 32 k and of 4, longer blocks than rows stay in the cache for.
    {12, 128, 512, 64, 4}, {11, 64, 300, 96, 4, false}, {13, 65, 260, 36, 8}, {261, 64, 96, 32, 4}, {10, 64, 8192, 512, 2},
    {2, 3, 0, 32, 4}, {18, 64, 65536, 128, 4}};

TEST(LinearGrouped, PackIsUndoneByUnpack) {
  for (const Case& c : cases) {
    const Problem p(c);
    std::vector<int8_t> back(p.codes.size(), 99);
    grouped_unpack(p.w, p.packed.data(), reinterpret_cast<uint8_t*>(back.data()), 0, p.w.panels);
    EXPECT_EQ(p.codes, back);
  }
}

TEST(LinearGrouped, EveryPathGivesTheBitsOfTheFormula) {
  for (const Case& c : cases) {
    const Problem p(c);
    Aligned scratch(grouped_int8_scratch(p.w, c.m));
    std::vector<float> wanted;
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.n; ++j) wanted.push_back(p.wanted(i, j));
    }
    for (const std::string& isa : supported_isa_names()) {
      std::vector<float> out(static_cast<size_t>(c.m * c.n), -1.0f);
      int8_path(isa)(p.arguments(out), GroupedRange{0, c.m, 0, p.w.panels, scratch.get()});
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_TRUE(same(wanted[i], out[i])) << isa << " m " << c.m << " n " << c.n << " k " << c.k << " group " << c.group
                                             << " bits " << c.bits << " at " << i << ": " << wanted[i] << " " << out[i];
      }
    }
  }
}

TEST(LinearGrouped, FloatActivationsGiveTheBitsOfTheFormulaOnEveryPath) {
  for (const Case& c : cases) {
    if (c.extreme) continue;
    const Problem p(c);
    Aligned scratch(grouped_float_scratch(p.w, p.c.m));
    std::vector<float> x(static_cast<size_t>(c.m * p.w.k_padded()), 0.0f), zero_point;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t k = 0; k < c.k; ++k) x[i * p.w.k_padded() + k / p.w.group * p.w.group_padded + k % p.w.group] = normal(random);
    }
    for (int64_t i = 0; i < c.n * p.w.groups; ++i) zero_point.push_back(static_cast<float>(i % 5) - 2.0f);
    GroupedFloat g;
    g.w = p.w;
    g.weight = p.packed.data();
    g.scale = GroupedScale{p.scale.data(), ScaleType::float32, kGroupedColumns * p.w.groups, 1, p.w.groups};
    if (c.zero_point) {
      g.zero_point = GroupedScale{zero_point.data(), ScaleType::float32, kGroupedColumns * p.w.groups, 1, p.w.groups};
    }
    g.m = c.m;
    g.input = x.data();
    g.lda = p.w.k_padded();
    g.bias = c.bias ? p.bias.data() : nullptr;
    g.ldo = c.n;
    for (const std::string& isa : supported_isa_names()) {
      std::vector<float> out(static_cast<size_t>(c.m * c.n), -1.0f);
      g.out = out.data();
      float_path(isa)(g, GroupedRange{0, c.m, 0, p.w.panels, scratch.get()});
      for (int64_t i = 0; i < c.m; ++i) {
        for (int64_t j = 0; j < c.n; ++j) {
          float t = 0.0f;
          for (int64_t group = 0; group < p.w.groups; ++group) {
            float acc = 0.0f, sum = 0.0f;
            for (int64_t k = group * p.w.group; k < std::min(c.k, (group + 1) * p.w.group); ++k) {
              const float value = x[i * p.w.k_padded() + group * p.w.group_padded + k % p.w.group];
              acc = std::fma(value, static_cast<float>(p.codes[j * c.k + k]), acc);
              sum += value;
            }
            if (c.zero_point) acc = std::fma(0.0f - zero_point[j * p.w.groups + group], sum, acc);
            t = std::fma(acc, p.scale[j * p.w.groups + group], t);
          }
          const float y = c.bias ? t + p.bias[j] : t;
          ASSERT_TRUE(same(y, out[i * c.n + j])) << isa << " m " << c.m << " n " << c.n << " k " << c.k << " group "
                                                 << c.group << " bits " << c.bits << ": " << y << " " << out[i * c.n + j];
        }
      }
    }
  }
}

// Scales of 16 bits and of every order of memory are read exactly.
TEST(LinearGrouped, ScalesMayBePanelOrderedTransposedAndOf16Bits) {
  Problem p(Case{3, 128, 96, 32, 4});
  std::vector<uint16_t> bf16, panels(p.scale.size()), transposed(p.scale.size()), half;
  for (float& s : p.scale) {
    uint32_t bits;
    std::memcpy(&bits, &s, 4);
    bits &= 0xffff0000u;  // now exact in bfloat16
    std::memcpy(&s, &bits, 4);
    bf16.push_back(static_cast<uint16_t>(bits >> 16));
  }
  const int64_t groups = p.w.groups;
  for (int64_t j = 0; j < 128; ++j) {
    for (int64_t g = 0; g < groups; ++g) {
      panels[j / 64 * groups * 64 + g * 64 + j % 64] = bf16[j * groups + g];
      transposed[g * 128 + j] = bf16[j * groups + g];
    }
  }
  Aligned scratch(grouped_int8_scratch(p.w, 3));
  const GroupedScale forms[] = {{bf16.data(), ScaleType::bfloat16, 64 * groups, 1, groups},
                                {panels.data(), ScaleType::bfloat16, 64 * groups, 64, 1},
                                {transposed.data(), ScaleType::bfloat16, 64, 128, 1}};
  for (const std::string& isa : supported_isa_names()) {
    for (const GroupedScale& form : forms) {
      for (int64_t rows : {1, 3}) {
        std::vector<float> out(3 * 128, -1.0f);
        GroupedInt8 g = p.arguments(out);
        g.scale = form;
        int8_path(isa)(g, GroupedRange{0, rows, 0, 2, scratch.get()});
        for (int64_t i = 0; i < rows * 128; ++i) ASSERT_TRUE(same(p.wanted(i / 128, i % 128), out[i])) << isa;
      }
    }
  }
  // float16: 1/3 rounded, the smallest subnormal and an ordinary power of two.
  const uint16_t raw[] = {0x3555, 0x0001, 0x4000};
  const float exact[] = {0.333251953125f, 5.9604644775390625e-08f, 2.0f};
  for (size_t i = 0; i < p.scale.size(); ++i) {
    half.push_back(raw[i % 3]);
    p.scale[i] = exact[i % 3];
  }
  for (const std::string& isa : supported_isa_names()) {
    std::vector<float> out(3 * 128, -1.0f);
    GroupedInt8 g = p.arguments(out);
    g.scale = GroupedScale{half.data(), ScaleType::float16, 64 * groups, 1, groups};
    int8_path(isa)(g, GroupedRange{0, 3, 0, 2, scratch.get()});
    for (int64_t i = 0; i < 3 * 128; ++i) ASSERT_TRUE(same(p.wanted(i / 128, i % 128), out[i])) << isa;
  }
}

}  // namespace
}  // namespace torchqat::cpu

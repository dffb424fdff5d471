// Convolutions that give codes, and floats that become codes, on every supported instruction set against the formula
// evaluated one value at a time: ties, both signs, clipping, constants beyond every shortcut.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "conv_cases.h"

namespace torchqat::cpu::conv {
namespace {

const Geometry geometries[] = {
    // Depthwise 3x3: a whole panel, parts of one, odd and even heights, both strides, dilation of rows, a line beyond a strip.
    {64, 1, 1, {1, 7, 9}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {96, 1, 1, {1, 8, 8}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {144, 1, 1, {1, 9, 11}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}},
    {20, 1, 1, {1, 6, 13}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {11, 1, 1, {1, 5, 10}, {1, 3, 3}, {1, 1, 2}, {0, 1, 1}, {1, 1, 1}},
    {32, 1, 1, {1, 1, 3}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {70, 1, 1, {1, 4, 150}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {40, 1, 1, {1, 9, 8}, {1, 3, 3}, {1, 1, 1}, {0, 2, 0}, {1, 2, 1}},
    {33, 1, 1, {3, 5, 6}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {130, 1, 1, {2, 6, 71}, {1, 3, 3}, {1, 2, 2}, {1, 2, 3}, {1, 1, 1}},
    {16, 1, 1, {1, 3, 140}, {1, 3, 3}, {1, 1, 1}, {0, 3, 4}, {1, 1, 1}},
    {31, 1, 1, {1, 2, 2}, {1, 3, 3}, {1, 1, 1}, {0, 3, 5}, {1, 1, 1}},
    // Depthwise of other kernels.
    {70, 1, 1, {1, 9, 8}, {1, 5, 5}, {1, 2, 2}, {0, 2, 2}, {1, 1, 1}},
    {24, 1, 1, {1, 1, 40}, {1, 1, 9}, {1, 1, 1}, {0, 0, 4}, {1, 1, 1}},
    {17, 1, 1, {4, 5, 6}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}},
    // Dense: few channels in, panels of 16, 24, 32, 64, 80 channels, one pixel rows.
    {1, 3, 64, {1, 9, 9}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {1, 3, 32, {1, 11, 12}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}},
    {1, 16, 16, {1, 6, 7}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
    {1, 40, 24, {1, 6, 7}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
    {1, 24, 80, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
    {2, 9, 70, {3, 4, 5}, {2, 3, 3}, {1, 2, 1}, {1, 1, 1}, {1, 1, 1}},
    {1, 32, 20, {1, 5, 5}, {1, 3, 3}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2}},
};

struct Scales {
  const char* name;
  float input, weight, bias;
  OutputGrid grid;
};

// Powers of two make every other quotient a tie.
const Scales scales[] = {
    {"ties", 0x1p-6f, 0x1p-6f, 0.5f, {false, 0x1p-3f, 3, 0, 255}},
    {"ties, one step", 1.0f, 0x1p-10f, 0.0f, {true, 2.0f, 128, 0, 255}},
    {"general", 0.02f, 0.003f, 0.7f, {false, 0.31f, 77, 0, 255}},
    {"signed", 0.02f, 0.003f, -0.7f, {false, 0.31f, -5, -128, 127}},
    {"signed relu", 0.02f, 0.003f, -0.7f, {true, 0.31f, -5, -128, 127}},
    {"clipped", 0.02f, 0.003f, 0.7f, {true, 0.05f, 0, 0, 100}},
    {"far outside", 1.0f, 1.0f, 0.7f, {false, 0x1p-20f, 10, 0, 255}},
    {"large bias", 0.02f, 0.003f, 3e7f, {false, 1.0f, 10, 0, 255}},
    {"tiny scale", 0x1p-70f, 0x1p-70f, 0.0f, {false, 0x1p-126f, 10, 0, 255}},
    {"NaN", 0.02f, 0.003f, std::numeric_limits<float>::quiet_NaN(), {false, 0.31f, 77, 0, 255}},
};

int code_of(float y, const OutputGrid& g) {
  if (std::isnan(y)) return static_cast<int>(g.zero_point);
  const float level = std::nearbyint((g.relu ? std::fmax(y, 0.0f) : y) / g.scale) + g.zero_point;
  return static_cast<int>(std::fmin(std::fmax(level, g.quant_min), g.quant_max));
}

TEST(ConvCodes, EveryPathEqualsTheFormula) {
  for (const Path& path : paths()) {
    unsigned seed = 100;
    for (const Geometry& g : geometries) {
      Case c = make_case(g, path.kernels.tile_rows, false, seed++);
      auto padded = aligned_bytes(c.plan.codes_bytes()), scratch = aligned_bytes(std::max(pad_scratch_bytes(c.plan), strip_scratch_bytes(c.plan)));
      Source source;
      source.codes = c.codes.data();
      source.zero_point = static_cast<float>(c.zero_point);
      path.kernels.pad_rows(c.plan, source, 0, c.plan.padded[0] * c.plan.padded[1], align(padded), align(scratch));
      const int64_t channels = c.plan.weight.out_channels(), pixels = c.plan.out_pixels();
      std::vector<int64_t> sums(static_cast<size_t>(channels * pixels));
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t o = 0; o < channels; ++o) sums[static_cast<size_t>(pixel * channels + o)] = exact_sum(c, pixel, o);
      }
      for (const Scales& s : scales) {
        for (const auto& [last, plain] : {std::pair{true, false}, std::pair{true, true}, std::pair{false, false}}) {
          if (plain && !path.kernels.reads_plain_codes(c.plan)) continue;
          std::vector<float> bias(static_cast<size_t>(channels), s.bias), weight(static_cast<size_t>(channels), s.weight);
          for (size_t o = 1; o < weight.size(); o += 2) weight[o] *= 0.5f;
          std::vector<uint8_t> out(static_cast<size_t>(channels * pixels) + 1, 0xa5);
          Task task;
          task.codes = plain ? nullptr : align(padded);
          task.plain = plain ? c.codes.data() : nullptr;
          task.packed = c.packed.data();
          task.input_scale = s.input;
          task.zero_point = c.zero_point;
          task.weight_scale = weight.data();
          task.per_channel = true;
          task.bias = bias.data();
          task.out_codes = out.data();
          task.grid = s.grid;
          task.channels_last = last;
          // In two calls, as threads would.
          path.kernels.strips(c.plan, task, 0, c.plan.strips / 2, align(scratch));
          path.kernels.strips(c.plan, task, c.plan.strips / 2, c.plan.strips, align(scratch));
          for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            for (int64_t o = 0; o < channels; ++o) {
              const float scale = s.input * weight[static_cast<size_t>(o)];
              const float product = static_cast<float>(sums[static_cast<size_t>(pixel * channels + o)]) * scale;
              const auto expected = static_cast<uint8_t>(code_of(product + s.bias, s.grid));
              ASSERT_EQ(expected, out[static_cast<size_t>(last ? pixel * channels + o : o * pixels + pixel)])
                  << path.name << (plain ? ", plain" : "") << ", scales " << s.name << ", channels " << channels << ", pixel " << pixel << ", channel " << o;
            }
          }
          ASSERT_EQ(0xa5, out.back()) << path.name;
        }
      }
    }
  }
}

// 256 * a + b for all bytes a and b, less the zero point: whatever lies near a tie for one of the channels' scales is met.
TEST(ConvCodes, EverySumOfALongRange) {
  const WeightLayout w = weight_layout(1, 4, 64, 2, {1, 1, 1});
  std::vector<int8_t> weight(64 * 4);
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = i % 4 == 0 ? 127 : i % 4 == 1 ? 127 : i % 4 == 2 ? 2 : 1;
  std::vector<uint8_t> packed(static_cast<size_t>(w.packed_bytes()) + 64), codes(4 * 65536);
  pack_weight(w, weight.data(), packed.data());
  for (size_t i = 0; i < 65536; ++i) {
    const auto a = static_cast<uint8_t>(i >> 8), b = static_cast<uint8_t>(i);
    codes[4 * i] = codes[4 * i + 1] = codes[4 * i + 2] = a;
    codes[4 * i + 3] = b;
  }
  std::mt19937 random(11);
  const auto uniform = [&] { return static_cast<float>(random() % 100000) * 1e-5f; };
  for (const Path& path : paths()) {
    const Plan plan = make_plan(w, {1, 64, 1024}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, path.kernels.tile_rows);
    auto padded = aligned_bytes(plan.codes_bytes()), scratch = aligned_bytes(std::max(pad_scratch_bytes(plan), strip_scratch_bytes(plan)));
    Source source;
    source.codes = codes.data();
    path.kernels.pad_rows(plan, source, 0, 64, align(padded), align(scratch));
    std::vector<float> scale(64), bias(64);
    std::vector<uint8_t> out(64 * 65536);
    for (int round = 0; round < 3; ++round) {
      OutputGrid grid{round == 1, 0.01f + uniform(), round == 2 ? -7.0f : std::floor(200 * uniform()), 0, 255};
      if (round == 2) grid.quant_min = -128, grid.quant_max = 127;
      for (size_t o = 0; o < 64; ++o) {
        scale[o] = grid.scale * 256.0f / 65536.0f * (0.25f + 2 * uniform());
        bias[o] = grid.scale * 300.0f * (uniform() - 0.7f);
      }
      Task task;
      task.codes = align(padded);
      task.packed = packed.data();
      task.weight_scale = scale.data();
      task.per_channel = true;
      task.bias = bias.data();
      task.out_codes = out.data();
      task.grid = grid;
      path.kernels.strips(plan, task, 0, plan.strips, align(scratch));
      for (size_t i = 0; i < 65536; ++i) {
        for (size_t o = 0; o < 64; ++o) {
          const auto sum = static_cast<float>(i);
          const float product = sum * scale[o];
          ASSERT_EQ(static_cast<uint8_t>(code_of(product + bias[o], grid)), out[64 * i + o]) << path.name << " round " << round << " sum " << i;
        }
      }
    }
  }
}

TEST(ConvCodes, FloatsBecomeCodesByDivision) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const WeightLayout w = weight_layout(1, 80, 1, 2, {1, 1, 1});
  for (const Path& path : paths()) {
    for (float scale : {0.1f, 0x1p-4f, 0.37f, 0x1p-120f, 0x1p120f}) {
      for (int shift : {0, 128}) {
        for (bool with_nan : {false, true}) {
          const Plan plan = make_plan(w, {1, 3, 5}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, path.kernels.tile_rows);
          std::mt19937 random(7);
          std::vector<float> values(80 * 15);
          for (size_t i = 0; i < values.size(); ++i) {
            const int level = static_cast<int>(random() % 900) - 450;
            values[i] = static_cast<float>(level) * 0.5f * scale;  // every other one near a tie
            if (i % 7 == 0) values[i] *= 1.37f;
            if (i % 50 == 3) values[i] = i % 100 == 3 ? inf : -inf;
            if (i % 50 == 4) values[i] = static_cast<float>(level) * 1e30f;
          }
          if (with_nan) values[700] = nan;
          Source s;
          s.values = values.data();
          s.scale = scale;
          s.zero_point = shift == 0 ? 20.0f : -20.0f;
          s.quant_min = shift == 0 ? 0.0f : -128.0f;
          s.quant_max = shift == 0 ? 255.0f : 127.0f;
          s.shift = shift;
          auto padded = aligned_bytes(plan.codes_bytes()), scratch = aligned_bytes(pad_scratch_bytes(plan));
          EXPECT_EQ(with_nan, path.kernels.pad_rows(plan, s, 0, plan.padded[1], align(padded), align(scratch))) << path.name;
          for (int64_t y = 0; y < 3; ++y) {
            for (int64_t i = 0; i < 5 * 80; ++i) {
              const float x = values[static_cast<size_t>(y * 400 + i)];
              const OutputGrid grid{false, s.scale, s.zero_point, s.quant_min, s.quant_max};
              ASSERT_EQ(code_of(x, grid) + shift, align(padded)[((y + 1) * 7 + 1) * 80 + i]) << path.name << " " << x << " / " << scale;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

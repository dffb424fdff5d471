// Convolution kernels of every supported instruction set against a slow integer oracle, without torch.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "conv_cases.h"

namespace torchqat::cpu::conv {
namespace {

const Geometry geometries[] = {
    {1, 3, 5, {1, 7, 9}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {1, 64, 65, {1, 5, 17}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {1, 31, 16, {1, 8, 8}, {1, 3, 2}, {1, 2, 2}, {0, 1, 0}, {1, 1, 1}},
    {1, 17, 33, {1, 1, 200}, {1, 1, 5}, {1, 1, 1}, {0, 0, 2}, {1, 1, 1}},
    {3, 8, 9, {1, 6, 6}, {1, 3, 3}, {1, 1, 1}, {0, 2, 2}, {1, 2, 2}},
    {2, 9, 70, {3, 4, 5}, {2, 3, 3}, {1, 2, 1}, {1, 1, 1}, {1, 1, 1}},
    {40, 1, 1, {1, 6, 7}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}},
    {70, 1, 1, {1, 9, 8}, {1, 5, 5}, {1, 2, 2}, {0, 2, 2}, {1, 1, 1}},
    {64, 1, 1, {1, 9, 8}, {1, 3, 3}, {1, 2, 1}, {0, 0, 0}, {1, 2, 1}},
    {16, 1, 1, {1, 20, 20}, {1, 17, 17}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}},
    {5, 1, 2, {1, 6, 7}, {1, 3, 3}, {1, 2, 1}, {0, 1, 1}, {1, 1, 1}},
};

TEST(ConvInt8, EveryPathEqualsTheIntegerOracle) {
  for (const Path& path : paths()) {
    unsigned seed = 1;
    for (const Geometry& g : geometries) {
      for (bool extreme : {false, true}) {
        Case c = make_case(g, path.kernels.tile_rows, extreme, seed++);
        auto padded = aligned_bytes(c.plan.codes_bytes()), scratch = aligned_bytes(std::max(pad_scratch_bytes(c.plan), strip_scratch_bytes(c.plan)));
        Source source;
        source.codes = c.codes.data();
        source.zero_point = static_cast<float>(c.zero_point);
        path.kernels.pad_rows(c.plan, source, 0, c.plan.padded[0] * c.plan.padded[1], align(padded), align(scratch));
        const int64_t channels = c.plan.weight.out_channels();
        std::vector<float> out(static_cast<size_t>(channels * c.plan.out_pixels())), bias(static_cast<size_t>(channels), 0.5f);
        const float weight_scale = 0.03f;
        Task task;
        task.packed = c.packed.data();
        task.input_scale = 0.1f;
        task.zero_point = c.zero_point;
        task.weight_scale = &weight_scale;
        task.bias = bias.data();
        task.out = out.data();
        for (bool plain : {false, true}) {
          if (plain && !path.kernels.reads_plain_codes(c.plan)) continue;
          task.codes = plain ? nullptr : align(padded);
          task.plain = plain ? c.codes.data() : nullptr;
          std::fill(out.begin(), out.end(), 0.0f);
          // In two parts, as threads would.
          path.kernels.strips(c.plan, task, c.plan.strips / 3, c.plan.strips, align(scratch));
          path.kernels.strips(c.plan, task, 0, c.plan.strips / 3, align(scratch));
          for (int64_t pixel = 0; pixel < c.plan.out_pixels(); ++pixel) {
            for (int64_t o = 0; o < channels; ++o) {
              const float y = static_cast<float>(exact_sum(c, pixel, o)) * (0.1f * 0.03f);
              ASSERT_EQ(y + 0.5f, out[static_cast<size_t>(pixel * channels + o)])
                  << path.name << (plain ? ", plain" : "") << " pixel " << pixel << " channel " << o;
            }
          }
        }
      }
    }
  }
}

TEST(ConvInt8, QuantizingDividesRoundsToEvenAndMarksTheInside) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values{0.0f, 0.05f, 0.15f, 0.25f, -0.05f, 12.75f, 12.8f, 25.4f, 25.5f, 25.6f, -13.0f, inf, -inf, nan, 1e-45f, 3e38f, -0.1f};
  for (const Path& path : paths()) {
    Source s;
    s.values = values.data();
    s.scale = 0.1f;
    s.zero_point = 3;
    std::vector<uint8_t> codes(values.size()), mask(3);
    EXPECT_TRUE(path.kernels.quantize(s, static_cast<int64_t>(values.size()), codes.data(), mask.data()));
    for (size_t i = 0; i < values.size(); ++i) {
      const float level = std::nearbyint(values[i] / 0.1f) + 3;
      const bool inside = level >= 0 && level <= 255;
      const float code = std::isnan(level) ? 3 : std::fmin(std::fmax(level, 0.0f), 255.0f);
      EXPECT_EQ(code, codes[i]) << path.name << " " << values[i];
      EXPECT_EQ(inside, (mask[i / 8] >> (i % 8) & 1) != 0) << path.name << " " << values[i];
    }
  }
}

TEST(ConvInt8, MaskedValuesBecomeZero) {
  for (const Path& path : paths()) {
    std::vector<float> values(37);
    std::vector<uint8_t> mask{0x5a, 0xff, 0x00, 0x81, 0x1f};
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
    path.kernels.apply_mask(values.data(), 37, mask.data());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ((mask[i / 8] >> (i % 8) & 1) != 0 ? static_cast<float>(i + 1) : 0.0f, values[i]) << path.name;
    }
  }
}

TEST(ConvInt8, UnpackReturnsWhatWasPacked) {
  for (const Geometry& g : geometries) {
    const Case c = make_case(g, 1, false, 7);
    std::vector<int8_t> codes(c.weight.size());
    unpack_weight(c.plan.weight, c.packed.data(), codes.data());
    EXPECT_EQ(c.weight, codes);
  }
}

TEST(ConvGrad, LimbsAddUpAndStayInEightBits) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const Path& path : paths()) {
    for (bool last : {true, false}) {
      std::vector<float> values(7 * 19), scale(19, 1.0f);
      for (auto& v : values) v = normal(random);
      GradSource s{values.data(), last, 7, 19, scale.data()};
      const float largest = path.grad.largest(s), inverse = 32639.0f / largest;
      std::vector<uint8_t> high(values.size()), low(values.size());
      path.grad.split(s, inverse, high.data(), low.data());
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_LE(std::fabs(values[i]), largest);
        EXPECT_EQ(std::nearbyint(values[i] * inverse), 256 * (high[i] - 128) + (low[i] - 128)) << path.name;
      }
      values[5] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(path.grad.largest(s))) << path.name;
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

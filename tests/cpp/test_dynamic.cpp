// Fake quantisation with scales from the data: one kernel, against the separate range, qparams and fake-quantise kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/kernels/dynamic.h"
#include "cpu/kernels/range.h"

namespace torchqat::cpu {
namespace {

std::vector<const DynamicKernels*> paths() {
  std::vector<const DynamicKernels*> found{&dynamic_scalar};
  if (supported_isa() >= Isa::avx2) found.push_back(&dynamic_avx2);
  if (supported_isa() >= Isa::avx512) found.push_back(&dynamic_avx512);
  return found;
}

TEST(Dynamic, EqualsTheSeparateKernelsOnEveryPath) {
  std::mt19937 generator(9);
  std::normal_distribution<float> normal;
  for (const int64_t width : {16, 32, 48, 80, 4096}) {
    for (const int64_t numel : {int64_t{96}, 7 * width, 70 * width + 5}) {
      std::vector<float> in(static_cast<size_t>(numel));
      for (float& x : in) x = normal(generator) + 0.3f;
      int64_t bad = 0;
      for (size_t i = 3; i < in.size(); i += 211) {
        in[i] = bad % 3 == 0 ? std::nanf("") : bad % 3 == 1 ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
        ++bad;
      }
      if (width == 16) {  // a block of nothing finite, and one of zeros
        for (size_t i = 32; i < 48; ++i) bad += std::isfinite(in[i]), in[i] = std::nanf("");
        for (size_t i = 16; i < 32; ++i) bad -= !std::isfinite(in[i]), in[i] = 0;
      }
      const int64_t stride = 1, count = (numel + width - 1) / width;
      const Blocks blocks = make_blocks(1, &numel, &width, &stride);
      for (const bool symmetric : {true, false}) {
        const int low = symmetric ? -8 : 0, high = symmetric ? 7 : 255;
        std::vector<float> lo(static_cast<size_t>(count), std::numeric_limits<float>::infinity()), hi(lo.size()), scale(lo.size());
        for (float& x : hi) x = -std::numeric_limits<float>::infinity();
        std::vector<int32_t> zero_point(lo.size());
        EXPECT_EQ(bad, range_scalar.min_max[0]({&blocks, in.data(), lo.data(), hi.data()}, 0, numel));
        range_scalar.qparams_f32(lo.data(), hi.data(), count, low, high, symmetric, scale.data(), zero_point.data());
        std::vector<float> want(in.size());
        std::vector<uint8_t> want_mask((in.size() + 7) / 8);
        const AffineArgs reference{&blocks, in.data(), want.data(), want_mask.data(), scale.data(), zero_point.data(), low, high, false};
        affine_scalar.fake_quantize[0](reference, 0, numel);
        for (const auto* kernels : paths()) {
          std::vector<float> got(in.size());
          std::vector<uint8_t> mask(want_mask.size());
          const DynamicArgs args{in.data(), got.data(), mask.data(), numel, width, low, high, symmetric, false};
          EXPECT_EQ(bad, kernels->fake_quantize[0](args, 0, 1) + kernels->fake_quantize[0](args, 1, count));
          EXPECT_EQ(want_mask, mask);
          for (size_t i = 0; i < in.size(); ++i) {
            ASSERT_TRUE((std::isnan(want[i]) && std::isnan(got[i])) || std::memcmp(&want[i], &got[i], 4) == 0)
                << width << " at " << i << ": want " << want[i] << ", got " << got[i];
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchqat::cpu

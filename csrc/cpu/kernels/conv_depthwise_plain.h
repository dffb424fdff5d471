// Depthwise convolution in plain loops over channels, which the compiler vectorises. Included by ISA files.
#pragma once
#include <cstring>

#include "cpu/kernels/conv_depthwise_no_lines.h"
#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {
namespace {

// sums[r][lane] = init + sum over taps of code * weight, for channels [channel, channel + columns).
void depthwise(const Plan& plan, const uint8_t* a, const int8_t* weight, int64_t channel, int64_t columns, int64_t rows,
               const int32_t* init, int32_t* sums) {
  const int64_t channels = plan.weight.groups, taps = static_cast<int64_t>(plan.taps.size());
  for (int64_t r = 0; r < rows; ++r) {
    int32_t acc[kPanel];
    std::memcpy(acc, init, sizeof acc);
    const uint8_t* pixel = a + r * plan.row_stride + channel;
    for (int64_t t = 0; t < taps; ++t) {
      const uint8_t* q = pixel + plan.taps[static_cast<size_t>(t)];
      const int8_t* w = weight + t * channels + channel;
      if (columns == kPanel) {
        for (int64_t i = 0; i < kPanel; ++i) acc[i] += static_cast<int32_t>(q[i]) * w[i];
      } else {
        for (int64_t i = 0; i < columns; ++i) acc[i] += static_cast<int32_t>(q[i]) * w[i];
      }
    }
    std::memcpy(sums + r * kPanel, acc, sizeof acc);
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

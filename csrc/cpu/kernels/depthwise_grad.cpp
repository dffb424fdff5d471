// The plan of the depthwise gradients. Plain integer work, compiled once.
#include "cpu/kernels/depthwise_grad.h"

#include <algorithm>
#include <cstddef>

namespace torchqat::cpu::conv {

DepthwiseGradPlan make_depthwise_grad_plan(const Plan& f) {
  DepthwiseGradPlan p;
  p.channels = f.weight.in_channels();
  p.taps = f.weight.taps();
  p.in = f.in;
  p.out = f.out;
  p.kernel = f.weight.kernel;
  for (std::size_t d = 0; d < 3; ++d) {
    p.along[d].resize(static_cast<std::size_t>(f.in[d]));
    for (int64_t i = 0; i < f.in[d]; ++i) {
      for (int64_t t = 0; t < p.kernel[d]; ++t) {
        const int64_t far = i + f.padding[d] - t * f.dilation[d];
        if (far >= 0 && far % f.stride[d] == 0 && far / f.stride[d] < f.out[d]) {
          p.along[d][static_cast<std::size_t>(i)].push_back({t, far / f.stride[d]});
        }
      }
    }
  }
  for (int64_t phase = 0; phase < std::min(f.stride[2], f.in[2]); ++phase) {
    for (int64_t i = phase; i < f.in[2]; i += f.stride[2]) {
      const auto& here = p.along[2][static_cast<std::size_t>(i)];
      bool same = i != phase;
      if (same) {
        const auto& before = p.along[2][static_cast<std::size_t>(i - f.stride[2])];
        same = before.size() == here.size();
        for (std::size_t j = 0; same && j < here.size(); ++j) same = here[j].tap == before[j].tap && here[j].out == before[j].out + 1;
      }
      if (same) {
        ++p.across.back().count;
      } else {
        p.across.push_back({i, f.stride[2], 1});
      }
    }
  }
  return p;
}

int64_t DepthwiseGradPlan::scratch_bytes(bool channels_last) const {
  const int64_t lists = taps * 16 + taps * kDepthwiseBlock * 4 + 128;
  if (channels_last) return lists;
  // Of the output gradient, the codes as floats (and once more, channels first), and dx.
  return lists + (out_pixels() + 3 * in_pixels()) * kDepthwiseBlock * 4 + 256;
}

}  // namespace torchqat::cpu::conv

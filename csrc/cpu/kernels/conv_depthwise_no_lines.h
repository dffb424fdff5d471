// For CPU paths whose depthwise convolution has no way of its own over whole lines. Included by ISA files.
#pragma once
#include "cpu/kernels/conv_int8.h"

namespace torchqat::cpu::conv {
namespace {

bool reads_plain_codes(const Plan&) { return false; }

template <typename Block>
bool depthwise_lines(const Plan&, const Task&, const int8_t*, int64_t, int64_t, const int32_t*, const Block&) {
  return false;
}

}  // namespace
}  // namespace torchqat::cpu::conv

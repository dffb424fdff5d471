// Depthwise gradients over Vec lanes; included by one file per instruction set.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/column_sums.h"
#include "cpu/kernels/depthwise_grad.h"
#include "cpu/vec/transpose.h"
#include "cpu/vec/vec.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

// How many taps a pass along a row holds, weights and sums alike, in registers.
constexpr int kHeldTaps = Vec::size == 16 ? 9 : 3;
constexpr int64_t kFlush = 64;  // pixels summed in float32

// Pixels of one block of channels, `pitch` apart.
template <typename Code>
struct Pixels {
  const float* grad;
  int64_t grad_pitch;
  const Code* codes;
  int64_t codes_pitch;
  float zero_point;
  const float* weight;  // [taps], weight_pitch apart
  int64_t weight_pitch;
  float* dx;
  int64_t dx_pitch;
  const uint8_t* mask;  // bit of the first channel of pixel 0; codes_pitch bits to the next pixel
};

struct Pair {
  int64_t grad, tap;  // offset of the output pixel, index of the tap
};

// Where a stretch of input pixels lies and which part of its sums a pass computes.
struct Pass {
  int64_t at, step, count;  // first pixel of the input, pixels from one to the next, how many
  bool first, last;         // whether dx starts here, and whether it is complete after it
};

// Lanes [c, c + left) of a stretch: taps pairs[0, Count).
template <int Count, typename Code>
TORCHQAT_INLINE void pass(const Pixels<Code>& p, const Pass& s, const Pair* pairs, int64_t c, int left, float* row_sums) {
  const bool whole = left == Vec::size;
  Vec weight[Count > 0 ? Count : 1], sum[Count > 0 ? Count : 1];
  const float* grad[Count > 0 ? Count : 1];
#pragma GCC unroll 16
  for (int k = 0; k < Count; ++k) {
    weight[k] = Vec::load(p.weight + pairs[k].tap * p.weight_pitch + c);
    sum[k] = Vec::load(row_sums + pairs[k].tap * kDepthwiseBlock + c);
    grad[k] = p.grad + pairs[k].grad + c;
  }
  int64_t at = s.at, moved = 0;
  for (int64_t i = 0; i < s.count; ++i, at += s.step, moved += p.grad_pitch) {
    const Code* from = p.codes + at * p.codes_pitch + c;
    Vec code;
    if (whole) {
      code = Vec::load(from);
    } else {
      Code few[Vec::size] = {};
      std::memcpy(few, from, static_cast<size_t>(left) * sizeof(Code));
      code = Vec::load(few);
    }
    const Vec centred = code - Vec(p.zero_point);
    float* to = p.dx == nullptr ? nullptr : p.dx + at * p.dx_pitch + c;
    Vec dx = s.first || to == nullptr ? Vec(0.0f) : Vec::load(to, left);
#pragma GCC unroll 16
    for (int k = 0; k < Count; ++k) {
      const Vec g = whole ? Vec::load(grad[k] + moved) : Vec::load(grad[k] + moved, left);
      dx = numerics::lane_fma(g, weight[k], dx);
      sum[k] = numerics::lane_fma(centred, g, sum[k]);
    }
    if (to == nullptr) continue;
    if (s.last && p.mask != nullptr) {
      const int64_t bit = at * p.codes_pitch + c;
      uint32_t bits = static_cast<uint32_t>(p.mask[bit / 8]) >> (bit % 8);
      if (Vec::size > 8) bits |= static_cast<uint32_t>(p.mask[bit / 8 + 1]) << 8;
      dx = numerics::select(Vec::from_bits(bits), dx, Vec(0.0f));
    }
    if (whole) {
      dx.store(to);
    } else {
      dx.store(to, left);
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < Count; ++k) sum[k].store(row_sums + pairs[k].tap * kDepthwiseBlock + c);
}

// The same for any number of taps up to kHeldTaps.
template <int Count, typename Code>
inline void pass_of(int64_t count, const Pixels<Code>& p, const Pass& s, const Pair* pairs, int64_t channels, float* row_sums) {
  if constexpr (Count > 0) {
    if (count < Count) return pass_of<Count - 1>(count, p, s, pairs, channels, row_sums);
  }
  for (int64_t c = 0; c < channels; c += Vec::size) {
    pass<Count>(p, s, pairs, c, static_cast<int>(std::min<int64_t>(Vec::size, channels - c)), row_sums);
  }
}

// Adds what rows summed to the sample's sums, and starts again.
inline void flush(int64_t taps, int64_t channels, float* row_sums, double* sums, int64_t pitch) {
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t c = 0; c < channels; ++c) sums[t * pitch + c] += static_cast<double>(row_sums[t * kDepthwiseBlock + c]);
  }
  std::memset(row_sums, 0, static_cast<size_t>(taps * kDepthwiseBlock) * sizeof(float));
}

template <typename Code>
void run(const DepthwiseGradPlan& plan, const Pixels<Code>& p, int64_t channels, double* sums, int64_t sums_pitch, Pair* pairs,
         float* row_sums) {
  std::memset(row_sums, 0, static_cast<size_t>(plan.taps * kDepthwiseBlock) * sizeof(float));
  int64_t row = 0, since = 0;
  for (const auto& slices : plan.along[0]) {
    for (const auto& rows : plan.along[1]) {
      for (const Stretch& stretch : plan.across) {
        int64_t count = 0;
        for (const Meeting& z : slices) {
          for (const Meeting& y : rows) {
            for (const Meeting& column : plan.along[2][static_cast<size_t>(stretch.first)]) {
              pairs[count++] = {((z.out * plan.out[1] + y.out) * plan.out[2] + column.out) * p.grad_pitch,
                                (z.tap * plan.kernel[1] + y.tap) * plan.kernel[2] + column.tap};
            }
          }
        }
        for (int64_t done = 0; done < stretch.count; done += kFlush) {
          Pass s{row + stretch.first + done * stretch.step, stretch.step, std::min(kFlush, stretch.count - done), true, false};
          for (int64_t k = 0; k == 0 || k < count; k += kHeldTaps) {
            s.first = k == 0;
            s.last = k + kHeldTaps >= count;
            pass_of<kHeldTaps>(std::min<int64_t>(kHeldTaps, count - k), p, s, pairs + k, channels, row_sums);
          }
          for (int64_t k = 0; k < count; ++k) pairs[k].grad += s.count * p.grad_pitch;
          since += s.count;
          if (sums != nullptr && since >= kFlush) {
            flush(plan.taps, channels, row_sums, sums, sums_pitch);
            since = 0;
          }
        }
      }
      row += plan.in[2];
    }
  }
  if (sums != nullptr && since > 0) flush(plan.taps, channels, row_sums, sums, sums_pitch);
}

void unit(const DepthwiseGradPlan& plan, const DepthwiseGradTask& task, int64_t block, uint8_t* scratch) {
  const int64_t first = block * kDepthwiseBlock, channels = std::min(kDepthwiseBlock, plan.channels - first);
  const int64_t pitch = plan.blocks() * kDepthwiseBlock;
  auto* row_sums = reinterpret_cast<float*>(scratch);
  auto* pairs = reinterpret_cast<Pair*>(row_sums + plan.taps * kDepthwiseBlock);
  double* sums = task.sums == nullptr ? nullptr : task.sums + first;
  if (task.channels_last) {
    const bool masked = task.mask != nullptr && plan.channels % 16 == 0;
    const Pixels<uint8_t> p{task.grad + first, plan.channels, task.codes + first, plan.channels, task.zero_point, task.weight + first, pitch,
                            task.dx == nullptr ? nullptr : task.dx + first, plan.channels, masked ? task.mask + first / 8 : nullptr};
    if (task.grad_sums != nullptr) add_column_sums(p.grad, p.grad_pitch, plan.out_pixels(), channels, task.grad_sums + first);
    run(plan, p, channels, sums, pitch, pairs, row_sums);
    return;
  }
  const int64_t in = plan.in_pixels(), out = plan.out_pixels();
  auto* grad = reinterpret_cast<float*>(scratch + (plan.taps * (kDepthwiseBlock * 4 + 16) + 63) / 64 * 64);
  float* centred = grad + out * kDepthwiseBlock;
  float* planes = centred + in * kDepthwiseBlock;
  float* dx = planes + in * kDepthwiseBlock;
  numerics::transpose_store(task.grad + first * out, out, channels, out, grad, kDepthwiseBlock);
  const uint8_t* codes = task.codes + first * in;
  for (int64_t i = 0; i < channels * in; ++i) planes[i] = static_cast<float>(codes[i]);
  numerics::transpose_store(planes, in, channels, in, centred, kDepthwiseBlock);
  const Pixels<float> p{grad, kDepthwiseBlock, centred, kDepthwiseBlock, task.zero_point, task.weight + first, pitch,
                        task.dx == nullptr ? nullptr : dx, kDepthwiseBlock, nullptr};
  if (task.grad_sums != nullptr) add_column_sums(grad, kDepthwiseBlock, out, channels, task.grad_sums + first);
  run(plan, p, channels, sums, pitch, pairs, row_sums);
  if (task.dx == nullptr) return;
  float* to = task.dx + first * in;
  numerics::transpose_store(dx, kDepthwiseBlock, in, channels, to, in);
  if (task.mask == nullptr) return;
  // Blocks begin at whole bytes of the mask.
  const uint8_t* mask = task.mask + first * in / 8;
  const int64_t size = channels * in;
  for (int64_t i = 0; i < size; i += Vec::size) {
    const int left = static_cast<int>(std::min<int64_t>(Vec::size, size - i));
    uint32_t bits = static_cast<uint32_t>(mask[i / 8]) >> (i % 8);
    if (left > 8) bits |= static_cast<uint32_t>(mask[i / 8 + 1]) << 8;
    numerics::select(Vec::from_bits(bits), Vec::load(to + i, left), Vec(0.0f)).store(to + i, left);
  }
}

}  // namespace
}  // namespace torchqat::cpu::conv

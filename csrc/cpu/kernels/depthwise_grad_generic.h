// Depthwise gradients over Vec lanes; included by one file per instruction set.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/kernels/depthwise_grad.h"
#include "cpu/vec/transpose.h"
#include "cpu/vec/vec.h"

namespace torchqat::cpu::conv {
namespace {

using numerics::Vec;

constexpr int kHeld = 4;             // vectors of channels worked on together
constexpr int64_t kFlush = 64;       // pixels summed in float32

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

// Vectors [c, c + Held * size) of one pixel; `left` lanes in the last vector.
template <int Held, typename Code>
TORCHQAT_INLINE void pixel(const Pixels<Code>& p, int64_t at, int64_t moved, const Pair* pairs, int64_t count, int64_t c, int left,
                           float* row_sums) {
  const bool whole = left == Vec::size;
  const auto load = [&](const float* from, int i) {
    return i + 1 == Held && !whole ? Vec::load(from + i * Vec::size, left) : Vec::load(from + i * Vec::size);
  };
  Vec centred[Held], sum[Held];
  for (int i = 0; i < Held; ++i) {
    const Code* from = p.codes + at * p.codes_pitch + c + i * Vec::size;
    if (i + 1 == Held && !whole) {
      Code last[Vec::size] = {};
      std::memcpy(last, from, static_cast<size_t>(left) * sizeof(Code));
      centred[i] = Vec::load(last) - Vec(p.zero_point);
    } else {
      centred[i] = Vec::load(from) - Vec(p.zero_point);
    }
    sum[i] = Vec(0.0f);
  }
  for (int64_t k = 0; k < count; ++k) {
    const float* grad = p.grad + pairs[k].grad + moved + c;
    const float* weight = p.weight + pairs[k].tap * p.weight_pitch + c;
    float* sums = row_sums + pairs[k].tap * kDepthwiseBlock + c;
    for (int i = 0; i < Held; ++i) {
      const Vec g = load(grad, i);
      sum[i] = sum[i] + g * Vec::load(weight + i * Vec::size);
      (Vec::load(sums + i * Vec::size) + centred[i] * g).store(sums + i * Vec::size);
    }
  }
  if (p.dx == nullptr) return;
  for (int i = 0; i < Held; ++i) {
    float* to = p.dx + at * p.dx_pitch + c + i * Vec::size;
    if (p.mask != nullptr) {
      const int64_t bit = at * p.codes_pitch + c + i * Vec::size;
      uint32_t bits = static_cast<uint32_t>(p.mask[bit / 8]) >> (bit % 8);
      if (Vec::size > 8) bits |= static_cast<uint32_t>(p.mask[bit / 8 + 1]) << 8;
      sum[i] = numerics::select(Vec::from_bits(bits), sum[i], Vec(0.0f));
    }
    if (i + 1 == Held && !whole) {
      sum[i].store(to, left);
    } else {
      sum[i].store(to);
    }
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
  int64_t at = 0, since = 0;
  for (const auto& slices : plan.along[0]) {
    for (const auto& rows : plan.along[1]) {
      int64_t count = 0, moved = 0;
      for (int64_t x = 0; x < plan.in[2]; ++x, ++at) {
        if (plan.follows[static_cast<size_t>(x)] != 0) {
          moved += p.grad_pitch;
        } else {
          count = 0;
          moved = 0;
          for (const Meeting& z : slices) {
            for (const Meeting& y : rows) {
              for (const Meeting& column : plan.along[2][static_cast<size_t>(x)]) {
                pairs[count++] = {((z.out * plan.out[1] + y.out) * plan.out[2] + column.out) * p.grad_pitch,
                                  (z.tap * plan.kernel[1] + y.tap) * plan.kernel[2] + column.tap};
              }
            }
          }
        }
        int64_t c = 0;
        for (; c + kHeld * Vec::size <= channels; c += kHeld * Vec::size) {
          pixel<kHeld>(p, at, moved, pairs, count, c, Vec::size, row_sums);
        }
        for (; c < channels; c += Vec::size) {
          pixel<1>(p, at, moved, pairs, count, c, static_cast<int>(std::min<int64_t>(Vec::size, channels - c)), row_sums);
        }
      }
      since += plan.in[2];
      if (sums != nullptr && since >= kFlush) {
        flush(plan.taps, channels, row_sums, sums, sums_pitch);
        since = 0;
      }
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

// What the kernels on weights in groups share: the layout read from the packed header, scales, codes unpacked in registers.
#pragma once
#include "cuda/kernels/lane.cuh"
#include "cuda/kernels/linear_grouped.h"
#include "cuda/kernels/mma.cuh"
#include "numerics/grouped.h"

namespace torchqat::cuda {

using cpu::GroupedLayout;

constexpr int64_t longest_integer_group = 32768;

// Nothing to multiply (groups = 0) where the header is not the one that the arguments describe.
__device__ inline GroupedLayout read_layout(const LinearGrouped& a, bool& valid) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(a.packed);
  valid = true;
  for (int i = 0; i < 16; ++i) valid &= (i >= 8 && i < 14) || words[i] == a.header.words[i];
  const int64_t group = static_cast<int64_t>(words[8] | static_cast<uint64_t>(words[9]) << 32);
  const int bits = static_cast<int>(words[10]);
  valid &= group >= 1 && (bits == 2 || bits == 3 || bits == 4 || bits == 8) && words[11] == 0 && words[12] <= 1 && words[13] == 0;
  GroupedLayout w;
  if (valid) w = cpu::grouped_layout(a.n, a.k, group, bits, words[12] == 1);
  valid &= w.groups == a.groups && a.bytes == 64 + w.panels * w.panel_bytes;
  if (a.codes != nullptr) valid &= w.offset != 0 && w.group_padded <= longest_integer_group;
  return w;
}

__device__ __forceinline__ float scale_at(const cpu::GroupedScale& s, int64_t column, int64_t group) {
  const int64_t at = column / cpu::kGroupedColumns * s.panel_stride + group * s.group_stride +
                     column % cpu::kGroupedColumns * s.column_stride;
  switch (s.type) {
    case cpu::ScaleType::bfloat16: return widen<float>(static_cast<const Bf16*>(s.data)[at]);
    case cpu::ScaleType::float16: return widen<float>(static_cast<const Half*>(s.data)[at]);
    default: return static_cast<const float*>(s.data)[at];
  }
}

// Field j of a dword: four codes u, one a byte.
template <int slot>
__device__ __forceinline__ uint32_t field(uint32_t word, int j) {
  constexpr uint32_t mask = slot == 8 ? 0xffffffffu : slot == 4 ? 0x0f0f0f0fu : 0x03030303u;
  return word >> (slot * j) & mask;
}

// Bytes u - offset, two's complement; offset at most 128.
__device__ __forceinline__ uint32_t signed_bytes(uint32_t u, uint32_t offset) {
  return offset == 128 ? u ^ 0x80808080u : ((u | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}

// Four codes of a row; what lies beyond `left` meets zero weights and is not read.
__device__ __forceinline__ uint32_t four_codes(const uint8_t* p, int64_t left) {
  if (left >= 4 && reinterpret_cast<uintptr_t>(p) % 4 == 0) return *reinterpret_cast<const uint32_t*>(p);
  uint32_t word = 0;
  for (int b = 0; b < 4 && b < left; ++b) word |= static_cast<uint32_t>(p[b]) << (8 * b);
  return word;
}

// Byte b of four codes, less the offset, as a float: 2^23 + code has the code in its low byte.
__device__ __forceinline__ float code_value(uint32_t codes, int b, float two23_and_offset) {
#if defined(__CUDA_ARCH__)
  const uint32_t bits = __byte_perm(codes, 0x4b000000u, 0x7440u | static_cast<uint32_t>(b));
#else
  const uint32_t bits = 0x4b000000u | (codes >> (8 * b) & 0xffu);
#endif
  float value;
  memcpy(&value, &bits, sizeof value);
  return value - two23_and_offset;
}

// What is not positive and finite makes the column NaN.
__device__ __forceinline__ float valid_scale(float s) {
  return s > 0.0f && s <= std::numeric_limits<float>::max() ? s : std::numeric_limits<float>::quiet_NaN();
}

__device__ __forceinline__ void store_as(void* out, Float type, int64_t at, float y) {
  switch (type) {
    case Float::bf16: static_cast<Bf16*>(out)[at] = narrow<Bf16>(y); return;
    case Float::f16: static_cast<Half*>(out)[at] = narrow<Half>(y); return;
    default: static_cast<float*>(out)[at] = y;
  }
}

}  // namespace torchqat::cuda

// Integer-grid kernels over raw pointers: fake-quantise, its backward, quantise, dequantise. No torch.
// Tensors are dense, in memory order; Blocks says which scale an element uses. Ranges begin at multiples of `tile`
// elements (or of 8 where the caller knows that no two threads share a mask byte).
#pragma once
#include <cstdint>

#include "cpu/kernels/blocks.h"

namespace torchqat::cpu {

enum class Float : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };
enum class Code : int { s8 = 0, u8 = 1, s16 = 2, s32 = 3 };

constexpr int64_t tile = 512;

struct AffineArgs {
  const Blocks* blocks;
  const void* in;
  void* out;
  uint8_t* mask;               // one bit per element, set where the gradient passes; or nullptr
  const void* scale;           // float, or double where the tensor is f64
  const int32_t* zero_point;   // or nullptr: 0
  int32_t quant_min, quant_max;
  bool stream;                 // write past the cache; out is 64-byte aligned
};

// Each works on elements [begin, end) of the memory order.
struct AffineKernels {
  void (*fake_quantize[4])(const AffineArgs&, int64_t begin, int64_t end);    // [Float]
  void (*quantize[4][4])(const AffineArgs&, int64_t begin, int64_t end);      // [Float in][Code out]
  void (*dequantize[4][4])(const AffineArgs&, int64_t begin, int64_t end);    // [Float out][Code in]
  // out = grad where the mask bit is set, else 0. in, out, mask of args only.
  void (*apply_mask[4])(const AffineArgs&, int64_t begin, int64_t end);       // [Float]
};

extern const AffineKernels affine_scalar, affine_avx2, affine_avx512;

}  // namespace torchqat::cpu

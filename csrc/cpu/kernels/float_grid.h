// Float-grid kernels over raw pointers: rounding to a small float format with given scales, and the block formats (MX,
// NVFP4) that take their scales from the data. No torch.
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"
#include "numerics/float_format.h"

namespace torchqat::cpu {

// y = round_to_format(x / scale) * scale with the scales that Blocks names. Tensors are dense, in memory order.
struct FloatGridArgs {
  const Blocks* blocks;
  const void* in;
  void* out;
  uint8_t* mask;      // one bit per element, set where the gradient passes; or nullptr
  const void* scale;  // float, or double where the tensor is f64
  numerics::FloatFormat format;
  bool stream;        // write past the cache; out is 64-byte aligned
  static constexpr const int32_t* zero_point = nullptr;  // float grids have none
};

// Contiguous [rows, columns]; blocks of `block` along a row, the last of a row may be short. Block i of the tensor is
// block i % blocks_per_row of row i / blocks_per_row.
struct FloatBlockArgs {
  const void* in;
  void* out;
  uint8_t* mask;           // or nullptr
  int64_t columns, block;
  numerics::FloatFormat format;
  numerics::ScaleRounding rounding;
  const void* tensor_scale;  // NVFP4's first level (float, double where the tensor is f64); nullptr means MX
  void* scale;               // block_scales only: one per block
  bool stream;

  int64_t blocks_per_row() const { return (columns + block - 1) / block; }
  // fake_quantize works where every block starts at a multiple of 16 elements.
  bool aligned() const { return columns % 16 == 0 && block % 16 == 0; }
};

struct FloatGridKernels {
  void (*fake_quantize[4])(const FloatGridArgs&, int64_t begin, int64_t end);   // [Float]; elements, as AffineKernels
  void (*block_scales[4])(const FloatBlockArgs&, int64_t begin, int64_t end);   // [Float]; blocks; the scales alone
  void (*fake_quantize_blocks[4])(const FloatBlockArgs&, int64_t begin, int64_t end);  // [Float]; blocks, aligned() only
  // Largest finite magnitude of n elements; 0 if there is none.
  double (*finite_absmax[4])(const void* in, int64_t n);                        // [Float]
};

extern const FloatGridKernels float_grid_scalar, float_grid_avx2, float_grid_avx512;

}  // namespace torchqat::cpu

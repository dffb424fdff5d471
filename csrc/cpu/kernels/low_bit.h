// Scales that minimise squared error, binary scales, and binary fake quantisation over raw pointers. No torch.
// Rows are contiguous and each has a scale; sums run in a fixed order: sixteen lanes over tiles of 512, tiles ascending. So the tiles of
// a long row can be shared out among threads without changing a bit.
#pragma once
#include <cstdint>

#include "cpu/kernels/affine.h"

namespace torchqat::cpu {

// Has run(work, begin, end) called on parts of [0, tiles), on any thread, and returns when all are done.
using ShareTiles = void (*)(int64_t tiles, void (*run)(const void* work, int64_t begin, int64_t end), const void* work);

constexpr int most_tile_sums = 32;  // per tile, of any sum below

struct RowsArgs {
  const void* in;            // [rows, length]
  int64_t length;
  const int64_t* count;      // [rows]: elements that are not padding (padding is 0); nullptr: all
  int32_t quant_min, quant_max;
  bool symmetric;
  void* scale;               // [rows], float; double for f64
  int32_t* zero_point;       // [rows]
  ShareTiles share;          // nullptr: one thread does a row
  double* tile_sums;         // with share: room for most_tile_sums per tile of a row
};

struct LowBitKernels {
  // Scale and zero point of the integer grid with the least sum of squared errors that the search finds; what is not
  // finite is left out; an all-zero row gets scale 1.
  void (*mse_qparams[4])(const RowsArgs&, int64_t begin, int64_t end);      // [Float]; rows
  // mean|x| of the finite elements, at least the smallest normal number.
  void (*binary_scales[4])(const RowsArgs&, int64_t begin, int64_t end);    // [Float]; rows
  // in, out, scale, blocks and stream of args only.
  void (*fake_quantize_binary[4])(const AffineArgs&, int64_t begin, int64_t end);  // [Float]; elements
};

extern const LowBitKernels low_bit_scalar, low_bit_avx2, low_bit_avx512;

}  // namespace torchqat::cpu

// Integer convolution on the CPU: what the tensor wrappers hand to the kernels of each instruction set.
//
//   acc = sum of (q_x - z_x) * q_w, exact;  y = float32(acc) * (s_x * s_w) + b
//
// Two steps for each sample. pad_rows writes u8 codes channels-last, plane by plane, with a border of zero points, so
// that the taps of a kernel row are contiguous; strips then runs a GEMM over them and writes float results.
#pragma once
#include <cstdint>

#include "cpu/kernels/conv_plan.h"

namespace torchqat::cpu::conv {

// One sample of input, dense: [depth, height, width, channel] or [channel, depth, height, width]. Exactly one of values
// and codes is given. Signed grids are shifted by +128 in storage: `shift` is 0 or 128, codes hold shifted values, or
// two's complement if `flip`.
struct Source {
  const float* values = nullptr;
  const uint8_t* codes = nullptr;
  bool channels_last = true;
  float scale = 1, zero_point = 0, quant_min = 0, quant_max = 255;
  int shift = 0;
  bool flip = false;
};

// The grid of a next layer: out codes are clamp(rint(y / scale) + zero_point), of max(y, 0) if relu.
struct OutputGrid {
  bool relu = false;
  float scale = 1, zero_point = 0, quant_min = 0, quant_max = 255;
};

struct Task {
  const uint8_t* codes = nullptr;   // from pad_rows
  // Instead, where the kernels read such: the sample's own codes, channels last, stored as u8; the results lie so too.
  const uint8_t* plain = nullptr;
  // Given for 16-bit input in two limbs, of which codes are the high ones; zero_point is theirs alike.
  const uint8_t* low_codes = nullptr;
  const uint8_t* packed = nullptr;  // from pack_weight
  float input_scale = 1;
  int32_t zero_point = 0;               // as stored: shift included
  const float* weight_scale = nullptr;  // [1] or [out channels]
  bool per_channel = false;
  const float* bias = nullptr;  // [out channels] or null
  float* out = nullptr;         // one sample, dense, channels_last or not
  // Bits of the results, in memory order: where 0, the result becomes 0. Only for channels last whose planes hold sixteens.
  const uint8_t* out_mask = nullptr;
  uint8_t* out_codes = nullptr; // instead of out: codes of grid, two's complement where it goes below zero
  OutputGrid grid;
  bool channels_last = true;
  // What the caller reads next, wherever it lies: kernels may ask for it while they compute.
  const void* ahead = nullptr;
  int64_t ahead_bytes = 0;
};

struct Kernels {
  int64_t tile_rows;
  // Codes (shifted) of n values and, in mask, a bit for each that lies inside the grid. True if a value was NaN.
  bool (*quantize)(const Source& source, int64_t n, uint8_t* codes, uint8_t* mask);
  // values[i] = 0 where bit i is 0.
  void (*apply_mask)(float* values, int64_t n, const uint8_t* mask);
  // Rows [begin, end) of padded[0] * padded[1] of every plane. True if a value was NaN. scratch: pad_scratch_bytes.
  bool (*pad_rows)(const Plan& plan, const Source& source, int64_t begin, int64_t end, uint8_t* codes, uint8_t* scratch);
  // Whether strips takes Task::plain, and no pad_rows is needed.
  bool (*reads_plain_codes)(const Plan& plan);
  // Strips [begin, end) of plan.strips. scratch: strip_scratch_bytes, 64-byte aligned.
  void (*strips)(const Plan& plan, const Task& task, int64_t begin, int64_t end, uint8_t* scratch);
};

constexpr int64_t kPixelBlock = 256;  // pixels transposed at a time
int64_t pad_scratch_bytes(const Plan& plan);
int64_t strip_scratch_bytes(const Plan& plan);

Kernels kernels_scalar();
Kernels kernels_avx2();
Kernels kernels_avxvnni();
Kernels kernels_avx512();
Kernels kernels_amx();

}  // namespace torchqat::cpu::conv

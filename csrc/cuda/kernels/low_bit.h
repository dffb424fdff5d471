// Scales that minimise squared error, binary scales, and binary fake quantisation on the device: the counterpart of
// cpu/kernels/low_bit.h, whose RowsArgs and order of summation these are, so the scales are the CPU's. No torch.
#pragma once
#include "cpu/kernels/low_bit.h"
#include "cuda/kernels/affine.h"

namespace torchqat::cuda {

// Rows of float, or of double where `wide`.
void mse_qparams(const cpu::RowsArgs& args, int64_t rows, bool wide, Stream stream);
void binary_scales(const cpu::RowsArgs& args, int64_t rows, bool wide, Stream stream);
// in, out, scale and blocks of args only.
void fake_quantize_binary(const AffineArgs& args, Float type, Stream stream);

}  // namespace torchqat::cuda

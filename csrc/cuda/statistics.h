// The range of every block of a CUDA tensor, and scale and zero point from it: the two kernels of cuda/kernels/range.h with their
// workspace.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels/range.h"

namespace torchqat::cuda {

struct Statistics {
  at::Tensor running_lo, running_hi;  // contiguous, in the compute type; merged in place; or undefined
  double averaging = 1;
  at::Tensor nonfinite;               // one int64, added to; or undefined
  int64_t quant_min = 0, quant_max = 0;
  bool symmetric = false;
};

// scale: contiguous, in x's compute type, one entry per block; zero_point: int32, as many; zero_point_value: like scale, or
// undefined.
void block_qparams(const at::Tensor& x, const Blocks& blocks, const Statistics& statistics, const at::Tensor& scale,
                   const at::Tensor& zero_point, const at::Tensor& zero_point_value, Stream stream);

}  // namespace torchqat::cuda

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

// The chunks' ranges of a dense tensor with at least one element: how they are divided, and their memory.
struct PartialRanges {
  RangePlan plan;
  at::Tensor lo, hi, skipped;
  RangeParts view{};
  PartialRanges(const at::Tensor& x, const Blocks& blocks);
};

// Scale and zero point of a range of any floating dtype, in its compute type.
std::tuple<at::Tensor, at::Tensor> qparams_of_range(const at::Tensor& lo, const at::Tensor& hi, int64_t quant_min,
                                                    int64_t quant_max, bool symmetric, Stream stream);

// scale: contiguous, in x's compute type, one entry per block; zero_point: int32, as many; zero_point_value: like scale, or
// undefined.
void block_qparams(const at::Tensor& x, const Blocks& blocks, const Statistics& statistics, const at::Tensor& scale,
                   const at::Tensor& zero_point, const at::Tensor& zero_point_value, Stream stream);

}  // namespace torchqat::cuda

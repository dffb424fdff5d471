// From CUDA tensors to the kernels on weights in groups. Shared by the deployed and the training layers.
#pragma once
#include "cuda/int8_gemm.h"
#include "cuda/kernels/linear_grouped.h"
#include "ops/linear_grouped.h"

namespace torchqat::cuda {

// A call in the making; the tensors keep the memory.
struct GroupedCall {
  at::Tensor packed, scale, bias;
  LinearGrouped args;

  GroupedCall(const char* op, const at::Tensor& input, const at::Tensor& packed_weight, const at::Tensor& weight_scale,
              const std::optional<at::Tensor>& bias);
  // Float inputs: args.input is set. y has shape `sizes` and the dtype of input.
  at::Tensor run(const at::Tensor& input, c10::SymIntArrayRef sizes, Stream stream);
  at::Tensor run_codes(const QuantizedRows& x, const at::Tensor& input, c10::SymIntArrayRef sizes, Stream stream);
};

cpu::GroupedScale view_grouped_scale(const at::Tensor& scale);

// int8 [n, k], contiguous, to the packed form with 8 bits a code, header included, on the device.
at::Tensor pack_grouped_codes(const at::Tensor& codes, int64_t group_size, Stream stream);

}  // namespace torchqat::cuda

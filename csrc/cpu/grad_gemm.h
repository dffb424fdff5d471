// The two backward products of an integer layer from tensors: dx = (dy * s_w) W and dW = (dy * s_x)^T (q_x - z_x), with the
// bias gradient, by 8-bit limbs or by bfloat16. Shared by the training layers.
#pragma once
#include "cpu/int8_gemm.h"
#include "cpu/kernels/gemm_groups.h"
#include "ops/qat_linear_int8.h"
#include "ops/torch_headers.h"

namespace torchqat {

struct GradProblem {
  at::Tensor grad;          // contiguous [m, n], float32, bfloat16 or float16
  int64_t m = 0, n = 0, k = 0;
  at::Tensor codes;         // uint8 [m, k_padded]
  Int8Weight weight;        // n x k
  const cpu::GroupedCodes* groups = nullptr;  // or the weight in groups, for int16 only; weight_scale is one 1 then
  at::Tensor weight_scale;  // float32, n or one
  const InputQParams* qparams = nullptr;
  at::Tensor mask, weight_mask;  // uint8 [m, ceil(k / 8)], [n, ceil(k / 8)]; undefined: nothing is masked
};

struct GradResults {
  at::Tensor input;   // [m, k], allocated by the caller in the dtype wanted, or undefined: not wanted
  at::Tensor weight;  // [n, k]
  at::Tensor bias;    // float32 [n]
};

// Which way is taken here: "auto" is int16 with VNNI, else bfloat16 where native, else float32; a bfloat16 that is not
// native is float32 too.
Backward resolve_backward(Backward wanted);

// dy summed over rows, in a fixed order.
void bias_gradient(const GradProblem& problem, const at::Tensor& out);

// Zeroes elements of a float32 [rows, k] whose bit in mask [rows, ceil(k / 8)] is 0.
void apply_bit_mask(const at::Tensor& values, const at::Tensor& mask);

// By 16-bit integers: both gradients as limbs, or the input's as they are, where the weight is in groups.
void grad_by_limbs(const GradProblem& problem, const GradResults& out);
void grad_by_bf16(const GradProblem& problem, const GradResults& out);

}  // namespace torchqat

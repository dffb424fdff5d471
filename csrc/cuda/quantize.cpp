// CUDA kernels of quantize and dequantize.
#include "ops/torch_headers.h"

#include "cuda/device.h"
#include "ops/qparams.h"
#include "ops/quantize.h"

namespace torchqat::cuda {
namespace {

at::Tensor quantize_op(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                       at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype) {
  check_quantize(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, dtype);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor codes = at::empty_like(x, x.options().dtype(dtype));
  const QParamsView q(scale, zero_point, compute_type(x));
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), codes.mutable_data_ptr(), nullptr, q.scale_data(), q.zero_point_data(),
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  cuda::quantize(args, float_type(x.scalar_type()), code_type(dtype), device.stream());
  return codes;
}

at::Tensor dequantize_op(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::IntArrayRef block_size, at::ScalarType dtype) {
  check_dequantize(codes, scale, zero_point, c10::fromIntArrayRefSlow(block_size), dtype);
  const OnDevice device(codes);
  const at::Tensor x = dense(codes);
  at::Tensor values = at::empty_like(x, x.options().dtype(dtype));
  const QParamsView q(scale, zero_point, compute_type(values));
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), values.mutable_data_ptr(), nullptr, q.scale_data(), q.zero_point_data(),
                        0, 0};
  cuda::dequantize(args, code_type(x.scalar_type()), float_type(dtype), device.stream());
  return values;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("quantize", &quantize_op);
  m.impl("dequantize", &dequantize_op);
}

}  // namespace
}  // namespace torchqat::cuda

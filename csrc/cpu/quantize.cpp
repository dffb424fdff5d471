// CPU kernels of quantize and dequantize.
#include "ops/torch_headers.h"

#include "cpu/block_view.h"
#include "cpu/isa.h"
#include "ops/qparams.h"
#include "ops/quantize.h"

namespace torchqat::cpu {
namespace {

at::Tensor quantize(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                    at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, at::ScalarType dtype) {
  check_quantize(input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max, dtype);
  const at::Tensor x = dense(input);
  at::Tensor codes = at::empty_like(x, x.options().dtype(dtype));
  const auto q = qparams_view("quantize", scale, zero_point, compute_type(x), quant_min, quant_max);
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), codes.mutable_data_ptr(), nullptr, q.scale_data, q.zero_point_data,
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), false};
  const auto kernel =
      affine_kernels().quantize[static_cast<int>(float_type(x.scalar_type()))][static_cast<int>(code_type(dtype))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return codes;
}

at::Tensor dequantize(const at::Tensor& codes, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      at::IntArrayRef block_size, at::ScalarType dtype) {
  check_dequantize(codes, scale, zero_point, c10::fromIntArrayRefSlow(block_size), dtype);
  const at::Tensor x = dense(codes);
  at::Tensor values = at::empty_like(x, x.options().dtype(dtype));
  // Any zero point that int32 holds may have made these codes.
  const auto q = qparams_view("dequantize", scale, zero_point, compute_type(values), std::numeric_limits<int32_t>::min(),
                              std::numeric_limits<int32_t>::max());
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), values.mutable_data_ptr(), nullptr, q.scale_data, q.zero_point_data,
                        0, 0, false};
  const auto kernel =
      affine_kernels().dequantize[static_cast<int>(float_type(dtype))][static_cast<int>(code_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return values;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("quantize", &quantize);
  m.impl("dequantize", &dequantize);
}

}  // namespace
}  // namespace torchqat::cpu

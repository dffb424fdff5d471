// CUDA kernels of choose_qparams_mse, choose_scale_binary and fake_quantize_binary.
#include "ops/torch_headers.h"

#include "cuda/device.h"
#include "cuda/kernels/low_bit.h"
#include "ops/block_rows.h"
#include "ops/low_bit.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

cpu::RowsArgs rows_args(const BlockRows& rows, const at::Tensor& scale) {
  cpu::RowsArgs args{};
  args.in = rows.values.const_data_ptr();
  args.length = rows.values.size(1);
  args.count = rows.count.defined() ? rows.count.const_data_ptr<int64_t>() : nullptr;
  args.scale = scale.mutable_data_ptr();
  return args;
}

std::tuple<at::Tensor, at::Tensor> choose_qparams_mse(const at::Tensor& input, at::IntArrayRef block_size, int64_t quant_min,
                                                      int64_t quant_max, bool symmetric) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(check_choose_qparams("choose_qparams_mse", input, c10::fromIntArrayRefSlow(block_size),
                                                                  quant_min, quant_max, symmetric));
  const OnDevice device(input);
  at::Tensor scale = at::ones(shape, input.options().dtype(compute_type(input)));
  at::Tensor zero_point = at::full(shape, std::clamp<int64_t>(0, quant_min, quant_max), input.options().dtype(at::kInt));
  if (input.numel() == 0) return {scale, zero_point};
  const BlockRows rows = block_rows(input.to(compute_type(input)), block_size, scale.numel());
  cpu::RowsArgs args = rows_args(rows, scale);
  args.quant_min = static_cast<int32_t>(quant_min);
  args.quant_max = static_cast<int32_t>(quant_max);
  args.symmetric = symmetric;
  args.zero_point = zero_point.mutable_data_ptr<int32_t>();
  mse_qparams(args, scale.numel(), input.scalar_type() == at::kDouble, device.stream());
  return {scale, zero_point};
}

at::Tensor choose_scale_binary(const at::Tensor& input, at::IntArrayRef block_size) {
  const auto shape =
      C10_AS_INTARRAYREF_SLOW(check_choose_scale("choose_scale_binary", input, c10::fromIntArrayRefSlow(block_size)));
  const OnDevice device(input);
  at::Tensor scale = at::ones(shape, input.options().dtype(compute_type(input)));
  if (input.numel() == 0) return scale;
  const BlockRows rows = block_rows(input.to(compute_type(input)), block_size, scale.numel());
  binary_scales(rows_args(rows, scale), scale.numel(), input.scalar_type() == at::kDouble, device.stream());
  return scale;
}

at::Tensor fake_quantize_binary_op(const at::Tensor& input, const at::Tensor& scale, at::IntArrayRef block_size) {
  check_fake_quantize_binary(input, scale, c10::fromIntArrayRefSlow(block_size));
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x);
  const QParamsView q(scale, std::nullopt, compute_type(x));
  const Blocks blocks = blocks_of(x, block_size);
  AffineArgs args{};
  args.blocks = &blocks;
  args.in = x.const_data_ptr();
  args.out = y.mutable_data_ptr();
  args.scale = q.scale_data();
  fake_quantize_binary(args, float_type(x.scalar_type()), device.stream());
  return y;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("choose_qparams_mse", &choose_qparams_mse);
  m.impl("choose_scale_binary", &choose_scale_binary);
  m.impl("fake_quantize_binary", &fake_quantize_binary_op);
}

}  // namespace
}  // namespace torchqat::cuda

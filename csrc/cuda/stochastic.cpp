// CUDA kernels of fake_quantize_stochastic.
#include "ops/torch_headers.h"

#include "cuda/device.h"
#include "cuda/kernels/stochastic.h"
#include "ops/fake_quantize.h"
#include "ops/qparams.h"
#include "ops/stochastic.h"

namespace torchqat::cuda {
namespace {

std::tuple<at::Tensor, at::Tensor> run(const at::Tensor& input, const at::Tensor& scale,
                                       const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                       int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset, bool with_mask) {
  check_fake_quantize("fake_quantize_stochastic", input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min,
                      quant_max);
  const OnDevice device(input);
  const at::Tensor x = dense(input);
  at::Tensor y = at::empty_like(x), mask;
  if (with_mask) mask = empty_mask(x);
  const QParamsView q(scale, zero_point, compute_type(x));
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), with_mask ? mask.mutable_data_ptr<uint8_t>() : nullptr,
                        q.scale_data(), q.zero_point_data(), static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max)};
  cuda::fake_quantize_stochastic(args, static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), float_type(x.scalar_type()),
                                 device.stream());
  return {y, mask};
}

at::Tensor stochastic(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                      at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset) {
  return std::get<0>(run(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset, false));
}

std::tuple<at::Tensor, at::Tensor> stochastic_forward(const at::Tensor& input, const at::Tensor& scale,
                                                      const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                                      int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset) {
  return run(input, scale, zero_point, block_size, quant_min, quant_max, seed, offset, true);
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("fake_quantize_stochastic", &stochastic);
  m.impl("_fake_quantize_stochastic_forward", &stochastic_forward);
}

}  // namespace
}  // namespace torchqat::cuda

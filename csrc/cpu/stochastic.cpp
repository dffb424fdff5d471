// CPU kernels of fake_quantize_stochastic.
#include "ops/torch_headers.h"

#include "cpu/block_view.h"
#include "cpu/kernels/stochastic.h"
#include "ops/fake_quantize.h"
#include "ops/qparams.h"
#include "ops/stochastic.h"

namespace torchqat::cpu {
namespace {

std::tuple<at::Tensor, at::Tensor> run(const at::Tensor& input, const at::Tensor& scale,
                                       const std::optional<at::Tensor>& zero_point, at::IntArrayRef block_size,
                                       int64_t quant_min, int64_t quant_max, int64_t seed, int64_t offset, bool with_mask) {
  const char* op = "fake_quantize_stochastic";
  check_fake_quantize(op, input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max);
  const at::Tensor x = dense(input);
  at::Tensor y = output_like(x), mask;
  if (with_mask) mask = at::empty({(x.numel() + 7) / 8}, x.options().dtype(at::kByte));
  const auto q = qparams_view(op, scale, zero_point, compute_type(x), quant_min, quant_max);
  const Blocks blocks = blocks_of(x, block_size);
  const AffineArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(),
                        with_mask ? mask.mutable_data_ptr<uint8_t>() : nullptr, q.scale_data, q.zero_point_data,
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), false};
  const auto& kernels = *select(&stochastic_scalar, &stochastic_avx2, &stochastic_avx512);
  const auto kernel = kernels.fake_quantize[static_cast<int>(float_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) {
    kernel(args, begin, end, static_cast<uint64_t>(seed), static_cast<uint64_t>(offset));
  });
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

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("fake_quantize_stochastic", &stochastic);
  m.impl("_fake_quantize_stochastic_forward", &stochastic_forward);
}

}  // namespace
}  // namespace torchqat::cpu

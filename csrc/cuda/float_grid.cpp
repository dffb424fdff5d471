// CUDA kernels of fake_quantize_float.
#include "ops/torch_headers.h"

#include "cuda/kernels/float_grid.h"
#include "cuda/statistics.h"
#include "ops/float_grid.h"
#include "ops/qparams.h"

namespace torchqat::cuda {
namespace {

// Scales of x's blocks from its data, [scales] in the compute type.
at::Tensor scales_of(const at::Tensor& x, const Blocks& blocks, FloatScales kind, const FloatScheme& scheme,
                     const at::Tensor& tensor_scale, Stream stream) {
  const PartialRanges parts(x, blocks);
  at::Tensor scale = at::empty({blocks.scales}, x.options().dtype(compute_type(x)));
  FloatScaleArgs args{};
  args.scales = blocks.scales;
  args.chunks = parts.plan.chunks;
  args.parts = parts.view;
  args.kind = kind;
  args.format = scheme.format;
  args.rounding = scheme.rounding;
  args.tensor_scale = tensor_scale.defined() ? tensor_scale.const_data_ptr() : nullptr;
  args.scale = scale.mutable_data_ptr();
  min_max(blocks, parts.plan, x.const_data_ptr(), float_type(x.scalar_type()), args.parts, stream);
  finish_float_scales(args, scale.scalar_type() == at::kDouble, stream);
  return scale;
}

void round_to_scales(const at::Tensor& x, const at::Tensor& y, uint8_t* mask, const at::Tensor& scale, const Blocks& blocks,
                     numerics::FloatFormat format, Stream stream) {
  const FloatGridArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), mask, scale.const_data_ptr(), format};
  cuda::fake_quantize_float(args, float_type(x.scalar_type()), stream);
}

at::Tensor run(const at::Tensor& input, const std::optional<at::Tensor>& scale, at::IntArrayRef block_size,
               std::string_view format, std::string_view scale_rounding, at::Tensor* mask) {
  const auto scheme = check_fake_quantize_float(input, scale, c10::fromIntArrayRefSlow(block_size), format, scale_rounding);
  const OnDevice device(input);
  at::Tensor given;
  if (scale.has_value()) given = in_type(*scale, compute_type(input));
  const bool from_data = scheme.scales != FloatScheme::Scales::given;
  const at::Tensor x = from_data ? input.contiguous() : dense(input);
  at::Tensor y = at::empty_like(x);
  uint8_t* bits = nullptr;
  if (mask != nullptr) {
    *mask = at::empty({(x.numel() + 7) / 8}, x.options().dtype(at::kByte));
    bits = mask->mutable_data_ptr<uint8_t>();
  }
  if (x.numel() == 0) return y;
  if (!from_data) {
    if (!given.defined()) {
      given = at::ones({1}, x.options().dtype(compute_type(x)));
      block_size = {};
    }
    round_to_scales(x, y, bits, given, blocks_of(x, block_size), scheme.format, device.stream());
    return y;
  }
  const bool mx = scheme.scales == FloatScheme::Scales::mx;
  if (!mx && !given.defined()) {
    given = scales_of(x, blocks_of(x, {}), FloatScales::nvfp4_tensor, scheme, {}, device.stream());
  }
  const int64_t columns = x.dim() == 0 ? 1 : x.size(-1), rows = x.numel() / columns;
  const int64_t wanted = block_size.empty() ? (mx ? 32 : 16) : block_size.back();
  const int64_t width = wanted == -1 ? columns : std::min(wanted, columns);
  const Blocks blocks = blocks_of(x.view({rows, columns}), {1, width});
  const FloatScales kind = mx ? FloatScales::mx : FloatScales::nvfp4;
  const FloatGridArgs once{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), bits, nullptr, scheme.format};
  if (cuda::fake_quantize_float_blocks(once, kind, scheme.rounding, given.defined() ? given.const_data_ptr() : nullptr,
                                       float_type(x.scalar_type()), device.stream())) {
    return y;
  }
  const at::Tensor scales = scales_of(x, blocks, kind, scheme, given, device.stream());
  round_to_scales(x, y, bits, scales, blocks, scheme.format, device.stream());
  return y;
}

at::Tensor fake_quantize_float_op(const at::Tensor& input, const std::optional<at::Tensor>& scale, at::IntArrayRef block_size,
                                  std::string_view format, std::string_view scale_rounding) {
  return run(input, scale, block_size, format, scale_rounding, nullptr);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_float_forward_op(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                                                  at::IntArrayRef block_size, std::string_view format,
                                                                  std::string_view scale_rounding) {
  at::Tensor mask;
  at::Tensor y = run(input, scale, block_size, format, scale_rounding, &mask);
  return {y, mask};
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("fake_quantize_float", &fake_quantize_float_op);
  m.impl("_fake_quantize_float_forward", &fake_quantize_float_forward_op);
}

}  // namespace
}  // namespace torchqat::cuda

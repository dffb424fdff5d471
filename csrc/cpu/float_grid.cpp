// CPU kernels of fake_quantize_float: tensors to pointers, threads.
#include "ops/torch_headers.h"

#include "cpu/block_view.h"
#include "cpu/kernels/float_grid.h"
#include "numerics/minifloat.h"
#include "ops/float_grid.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

const FloatGridKernels& kernels() { return *select(&float_grid_scalar, &float_grid_avx2, &float_grid_avx512); }

// Dense x to y of the same strides with these scales (compute type, contiguous).
void with_scales(const at::Tensor& x, const at::Tensor& y, uint8_t* mask, const at::Tensor& scale, const Blocks& blocks,
                 numerics::FloatFormat format) {
  const FloatGridArgs args{&blocks, x.const_data_ptr(), y.mutable_data_ptr(), mask, scale.const_data_ptr(), format, streams(y)};
  const auto kernel = kernels().fake_quantize[static_cast<int>(float_type(x.scalar_type()))];
  parallel_elements(blocks.numel, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

// Over all finite values; a maximum does not depend on the order.
at::Tensor nvfp4_tensor_scale(const at::Tensor& x) {
  const auto kernel = kernels().finite_absmax[static_cast<int>(float_type(x.scalar_type()))];
  const char* data = static_cast<const char*>(x.const_data_ptr());
  const int64_t width = x.element_size();
  std::atomic<double> most{0.0};
  parallel_elements(x.numel(), [&](int64_t begin, int64_t end) {
    const double own = kernel(data + begin * width, end - begin);
    double seen = most.load();
    while (own > seen && !most.compare_exchange_weak(seen, own)) {
    }
  });
  at::Tensor scale = at::empty({}, x.options().dtype(compute_type(x)));
  if (compute_type(x) == at::kDouble) {
    *scale.mutable_data_ptr<double>() = numerics::nvfp4_tensor_scale(most.load());
  } else {
    *scale.mutable_data_ptr<float>() = numerics::nvfp4_tensor_scale(static_cast<float>(most.load()));
  }
  return scale;
}

// Contiguous x to contiguous y, scales from the data.
void with_blocks(const at::Tensor& x, const at::Tensor& y, uint8_t* mask, const at::Tensor& tensor_scale,
                 const FloatScheme& scheme, at::IntArrayRef block_size) {
  const int64_t columns = x.dim() == 0 ? 1 : x.size(-1), rows = x.numel() / columns;
  const int64_t wanted = block_size.empty() ? (scheme.scales == FloatScheme::Scales::mx ? 32 : 16) : block_size.back();
  const int type = static_cast<int>(float_type(x.scalar_type()));
  FloatBlockArgs args{};
  args.in = x.const_data_ptr();
  args.out = y.mutable_data_ptr();
  args.mask = mask;
  args.columns = columns;
  args.block = wanted == -1 ? columns : std::min(wanted, columns);
  args.format = scheme.format;
  args.rounding = scheme.rounding;
  args.tensor_scale = tensor_scale.defined() ? tensor_scale.const_data_ptr() : nullptr;
  args.stream = streams(y);
  const int64_t count = rows * args.blocks_per_row(), share = std::max<int64_t>(1, grain / args.block);
  if (args.aligned()) {
    const auto kernel = kernels().fake_quantize_blocks[type];
    at::parallel_for(0, count, share, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
    return;
  }
  const at::Tensor scale = at::empty({count}, x.options().dtype(compute_type(x)));
  args.scale = scale.mutable_data_ptr();
  const auto kernel = kernels().block_scales[type];
  at::parallel_for(0, count, share, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  with_scales(x, y, mask, scale, blocks_of(x.view({rows, columns}), {1, args.block}), scheme.format);
}

at::Tensor run(const at::Tensor& input, const std::optional<at::Tensor>& scale, at::IntArrayRef block_size,
               std::string_view format, std::string_view scale_rounding, at::Tensor* mask) {
  const auto scheme =
      check_fake_quantize_float(input, scale, c10::fromIntArrayRefSlow(block_size), format, scale_rounding);
  at::Tensor given;
  if (scale.has_value()) given = qparams_view("fake_quantize_float", *scale, std::nullopt, compute_type(input), 0, 1).scale;
  const bool blocks = scheme.scales != FloatScheme::Scales::given;
  const at::Tensor x = blocks ? input.contiguous() : dense(input);
  at::Tensor y = output_like(x);
  uint8_t* bits = nullptr;
  if (mask != nullptr) {
    *mask = at::empty({(x.numel() + 7) / 8}, x.options().dtype(at::kByte));
    bits = mask->mutable_data_ptr<uint8_t>();
  }
  if (x.numel() == 0) return y;
  if (blocks) {
    if (scheme.scales == FloatScheme::Scales::nvfp4 && !given.defined()) given = nvfp4_tensor_scale(x);
    with_blocks(x, y, bits, given, scheme, block_size);
  } else if (given.defined()) {
    with_scales(x, y, bits, given, blocks_of(x, block_size), scheme.format);
  } else {
    with_scales(x, y, bits, at::ones({1}, x.options().dtype(compute_type(x))), blocks_of(x, {}), scheme.format);
  }
  return y;
}

at::Tensor fake_quantize_float(const at::Tensor& input, const std::optional<at::Tensor>& scale, at::IntArrayRef block_size,
                               std::string_view format, std::string_view scale_rounding) {
  return run(input, scale, block_size, format, scale_rounding, nullptr);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_float_forward(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                                               at::IntArrayRef block_size, std::string_view format,
                                                               std::string_view scale_rounding) {
  at::Tensor mask;
  at::Tensor y = run(input, scale, block_size, format, scale_rounding, &mask);
  return {y, mask};
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("fake_quantize_float", &fake_quantize_float);
  m.impl("_fake_quantize_float_forward", &fake_quantize_float_forward);
}

}  // namespace
}  // namespace torchqat::cpu

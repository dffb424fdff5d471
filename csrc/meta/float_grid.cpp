// Shapes of fake_quantize_float: block formats give a contiguous result, given scales keep the input's memory order.
#include "ops/torch_headers.h"

#include "ops/float_grid.h"

namespace torchqat {
namespace {

at::Tensor output_like(const at::Tensor& input, const FloatScheme& scheme) {
  return scheme.scales == FloatScheme::Scales::given ? at::empty_like(input)
                                                     : at::empty_like(input, at::MemoryFormat::Contiguous);
}

at::Tensor fake_quantize_float_meta(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                    c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding) {
  return output_like(input, check_fake_quantize_float(input, scale, block_size, format, scale_rounding));
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_float_forward_meta(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                                                    c10::SymIntArrayRef block_size, std::string_view format,
                                                                    std::string_view scale_rounding) {
  const auto scheme = check_fake_quantize_float(input, scale, block_size, format, scale_rounding);
  return {output_like(input, scheme), at::empty_symint({mask_bytes(input)}, input.options().dtype(at::kByte))};
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("fake_quantize_float", &fake_quantize_float_meta);
  m.impl("_fake_quantize_float_forward", &fake_quantize_float_forward_meta);
}

}  // namespace
}  // namespace torchqat

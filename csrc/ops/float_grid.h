// fake_quantize_float below its public function: what a format name means, and the op that carries what backward needs.
#pragma once
#include "ops/torch_headers.h"

#include "numerics/float_format.h"
#include "ops/blocks.h"

namespace torchqat {

struct FloatScheme {
  enum class Scales { given, mx, nvfp4 };
  numerics::FloatFormat format;
  Scales scales;
  numerics::ScaleRounding rounding;
};

// All argument checks but those of a scale's values.
FloatScheme check_fake_quantize_float(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                      c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding);

at::Tensor fake_quantize_float_symint(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                      c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding);
std::tuple<at::Tensor, at::Tensor> fake_quantize_float_forward(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                                               c10::SymIntArrayRef block_size, std::string_view format,
                                                               std::string_view scale_rounding);

}  // namespace torchqat

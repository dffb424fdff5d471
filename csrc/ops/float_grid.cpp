// Schemas, checks and C++ entry point of fake_quantize_float.
#include "ops/torch_headers.h"

#include "ops/call.h"
#include "ops/float_grid.h"
#include "torchqat/float_grid.h"

namespace torchqat {

using numerics::FloatFormat, numerics::ScaleRounding;

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def(
      "fake_quantize_float(Tensor input, Tensor? scale, SymInt[] block_size, str format, str scale_rounding=\"floor\") "
      "-> Tensor");
  // mask: as _fake_quantize_forward's.
  m.def(
      "_fake_quantize_float_forward(Tensor input, Tensor? scale, SymInt[] block_size, str format, str scale_rounding) "
      "-> (Tensor output, Tensor mask)");
}

namespace {

constexpr const char* op_name = "fake_quantize_float";

struct NamedFormat {
  std::string_view name;
  FloatFormat format;
  FloatScheme::Scales scales;
};
constexpr NamedFormat formats[] = {
  {"e4m3fn", FloatFormat::e4m3fn, FloatScheme::Scales::given},  {"e5m2", FloatFormat::e5m2, FloatScheme::Scales::given},
  {"e3m2", FloatFormat::e3m2, FloatScheme::Scales::given},      {"e2m3", FloatFormat::e2m3, FloatScheme::Scales::given},
  {"e2m1", FloatFormat::e2m1, FloatScheme::Scales::given},      {"mxfp8_e4m3", FloatFormat::e4m3fn, FloatScheme::Scales::mx},
  {"mxfp8_e5m2", FloatFormat::e5m2, FloatScheme::Scales::mx},   {"mxfp6_e3m2", FloatFormat::e3m2, FloatScheme::Scales::mx},
  {"mxfp6_e2m3", FloatFormat::e2m3, FloatScheme::Scales::mx},   {"mxfp4", FloatFormat::e2m1, FloatScheme::Scales::mx},
  {"nvfp4", FloatFormat::e2m1, FloatScheme::Scales::nvfp4},
};

FloatScheme parse(std::string_view format, std::string_view rounding) {
  std::ostringstream known;
  for (const auto& f : formats) {
    if (f.name != format) {
      known << ' ' << f.name;
      continue;
    }
    for (int r = 0; r < 4; ++r) {
      if (rounding == numerics::scale_rounding_names[r]) return {f.format, f.scales, static_cast<ScaleRounding>(r)};
    }
    TORCH_CHECK_VALUE(false, op_name, ": scale_rounding must be floor, rceil, ceil or even, got '", rounding, "'");
  }
  TORCH_CHECK_VALUE(false, op_name, ": format must be one of", known.str(), ", got '", format, "'");
}

// block_size [1, ..., 1, n]; n_allowed = 0 allows any n > 0 and -1.
void check_last_dimension_blocks(const at::Tensor& input, c10::SymIntArrayRef block_size, std::string_view format, int n_allowed) {
  if (block_size.empty()) return;
  scale_shape(op_name, input.sym_sizes(), block_size);  // rank and signs
  for (size_t d = 0; d + 1 < block_size.size(); ++d) {
    TORCH_CHECK_VALUE(block_size[d] == 1, op_name, ": block_size of ", format,
                      " must be 1 in every dimension but the last (blocks lie along the last dimension), got ", block_size);
  }
  TORCH_CHECK_VALUE(n_allowed == 0 || block_size.back() == n_allowed, op_name, ": block_size of ", format, " must end in ",
                    n_allowed, ", got ", block_size);
}

}  // namespace

FloatScheme check_fake_quantize_float(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                      c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding) {
  const FloatScheme scheme = parse(format, scale_rounding);
  check_floating(op_name, "input", input);
  switch (scheme.scales) {
    case FloatScheme::Scales::given:
      if (scale.has_value()) {
        check_qparams(op_name, input, *scale, std::nullopt, block_size);
      } else {
        scale_shape(op_name, input.sym_sizes(), block_size);
      }
      break;
    case FloatScheme::Scales::mx:
      TORCH_CHECK_VALUE(!scale.has_value(), op_name, ": scale must be absent for ", format,
                        ", whose scales come from the data, got a scale of shape ", scale->sym_sizes());
      check_last_dimension_blocks(input, block_size, format, 0);
      break;
    case FloatScheme::Scales::nvfp4:
      if (scale.has_value()) {
        TORCH_CHECK_VALUE(scale->sym_numel() == 1, op_name, ": scale of nvfp4 must have one element (the tensor scale), got ",
                          scale->sym_sizes());
        check_qparams(op_name, input, *scale, std::nullopt, {});
      }
      check_last_dimension_blocks(input, block_size, format, 16);
  }
  return scheme;
}

at::Tensor fake_quantize_float_symint(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                      c10::SymIntArrayRef block_size, std::string_view format, std::string_view scale_rounding) {
  static const auto op = find_op<decltype(fake_quantize_float_symint)>("torchqat::fake_quantize_float");
  return op.call(input, scale, block_size, format, scale_rounding);
}

at::Tensor fake_quantize_float(const at::Tensor& input, const std::optional<at::Tensor>& scale, at::IntArrayRef block_size,
                               std::string_view format, std::string_view scale_rounding) {
  return fake_quantize_float_symint(input, scale, c10::fromIntArrayRefSlow(block_size), format, scale_rounding);
}

std::tuple<at::Tensor, at::Tensor> fake_quantize_float_forward(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                                               c10::SymIntArrayRef block_size, std::string_view format,
                                                               std::string_view scale_rounding) {
  static const auto op = find_op<decltype(fake_quantize_float_forward)>("torchqat::_fake_quantize_float_forward");
  return op.call(input, scale, block_size, format, scale_rounding);
}

}  // namespace torchqat

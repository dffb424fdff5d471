// Fake quantisation on float grids: e4m3fn e5m2 e3m2 e2m3 e2m1, the MX block formats and NVFP4.
#pragma once
#include <optional>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// Element formats (e4m3fn e5m2 e3m2 e2m3 e2m1): y = round(x / scale) * scale; scale and block_size as in fake_quantize, absent
// scale = 1. MX (mxfp8_e4m3 mxfp8_e5m2 mxfp6_e3m2 mxfp6_e2m3 mxfp4): one power-of-two scale per block along the last dimension,
// from the data, rounded by scale_rounding (floor rceil ceil even); block_size [1, ..., n], {} = 32. nvfp4: blocks of 16, e4m3fn
// scales from the data times a tensor scale: `scale`, or from the data where absent.
// Straight-through gradient where |x / scale| <= the format's largest value; scales are constants.
TORCHQAT_API at::Tensor fake_quantize_float(const at::Tensor& input, const std::optional<at::Tensor>& scale,
                                            at::IntArrayRef block_size, std::string_view format,
                                            std::string_view scale_rounding = "floor");

}  // namespace torchqat

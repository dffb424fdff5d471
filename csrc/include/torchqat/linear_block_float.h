// A linear layer on values that lie on MX or NVFP4 grids.
#pragma once
#include <optional>
#include <string_view>

#include <ATen/core/ScalarType.h>
#include <ATen/core/Tensor.h>
#include <torchqat/export.h>

namespace torchqat {

// y = input @ weight^T + bias of fake-quantised values: input [..., K] and weight [N, K] as fake_quantize_float gives them for the
// formats (mxfp8_e4m3, mxfp8_e5m2, mxfp6_e3m2, mxfp6_e2m3, mxfp4 with blocks of 32, or nvfp4 on both sides); bias [N] or absent.
// Where a device has tensor cores for such blocks, and they pass a comparison with the definition at their first use, the values
// become codes and scales again and the hardware multiplies those, with float32 sums; elsewhere it is a float product of dtype.
// unrounded: what input was rounded from; nvfp4's tensor scale is taken from it (absent: from input). dtype: of the product and the
// result; absent: input's. Gradients are those of the float product.
TORCHQAT_API at::Tensor linear_block_float(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                           std::string_view input_format, std::string_view weight_format,
                                           const std::optional<at::Tensor>& unrounded = std::nullopt,
                                           std::optional<at::ScalarType> dtype = std::nullopt);

}  // namespace torchqat

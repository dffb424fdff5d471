// Small codes as a stream of bits: the form that files use.
#pragma once
#include <ATen/core/Tensor.h>

#include <torchqat/export.h>

namespace torchqat {

// codes (any shape, an integer dtype, each in [-2^(bits-1), 2^bits - 1]) -> uint8 [ceil(numel * bits / 8)], one
// little-endian stream of bits: code i takes bits [i * bits, (i + 1) * bits). bits: 1, 2, 3, 4 or 8.
TORCHQAT_API at::Tensor pack_bits(const at::Tensor& codes, int64_t bits);

// The first `numel` codes of such a stream: int8 [numel], sign-extended, or uint8 [numel].
TORCHQAT_API at::Tensor unpack_bits(const at::Tensor& packed, int64_t bits, int64_t numel, bool is_signed);

}  // namespace torchqat

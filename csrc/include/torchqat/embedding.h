// Embedding tables of 8, 4, 3 or 2 bits with scales per row or per group along the row.
#pragma once
#include <ATen/core/Tensor.h>

#include <torchqat/export.h>

namespace torchqat {

// codes [rows, embedding_dim], int8 or (unsigned grids) uint8, bits 8, 4, 3 or 2 -> a packed table, 1-D uint8. Each row
// is a bit stream (pack_bits) of whole bytes.
TORCHQAT_API at::Tensor embedding_pack(const at::Tensor& codes, int64_t bits);
TORCHQAT_API at::Tensor embedding_unpack(const at::Tensor& packed_weight);

// y[..., j] = (q - z) * s of row indices[...], in float32 (float64 for that dtype), rounded to dtype. scale and
// zero_point: [rows, ceil(embedding_dim / group_size)]; group_size -1 is the whole row. indices: int32 or int64.
TORCHQAT_API at::Tensor embedding_int(const at::Tensor& indices, const at::Tensor& packed_weight, const at::Tensor& scale,
                                      const std::optional<at::Tensor>& zero_point, int64_t embedding_dim,
                                      int64_t group_size, at::ScalarType dtype);

// torch.nn.functional.embedding_bag over such a table: mode "sum", "mean" or "max"; indices [bags, length] without
// offsets or 1-D with them; per_sample_weights for "sum" only; rows equal to padding_idx (if >= 0) are left out; an
// empty bag is 0. Sums are float32 in ascending order.
TORCHQAT_API at::Tensor embedding_bag_int(const at::Tensor& indices, const at::Tensor& packed_weight,
                                          const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                          int64_t embedding_dim, int64_t group_size, at::ScalarType dtype,
                                          const std::optional<at::Tensor>& offsets = std::nullopt,
                                          const std::optional<at::Tensor>& per_sample_weights = std::nullopt,
                                          c10::string_view mode = "mean", bool include_last_offset = false,
                                          int64_t padding_idx = -1);

}  // namespace torchqat

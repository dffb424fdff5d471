// Checks of the embedding ops, shared by Meta and the kernels.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

constexpr uint32_t kEmbeddingVersion = 1;

enum class BagMode { sum, mean, max };

// What the arguments common to both look-ups say.
struct EmbeddingCheck {
  c10::SymInt rows, groups, group_size;
};

void check_embedding_pack(const at::Tensor& codes, int64_t bits);
EmbeddingCheck check_embedding(const char* op, const at::Tensor& indices, const at::Tensor& packed_weight,
                               const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                               const c10::SymInt& embedding_dim, int64_t group_size, at::ScalarType dtype);
BagMode check_embedding_bag(const at::Tensor& indices, const std::optional<at::Tensor>& offsets,
                            const std::optional<at::Tensor>& per_sample_weights, c10::string_view mode,
                            bool include_last_offset);
c10::SymInt embedding_bags(const at::Tensor& indices, const std::optional<at::Tensor>& offsets,
                           bool include_last_offset);

}  // namespace torchqat

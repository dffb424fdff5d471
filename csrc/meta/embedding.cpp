// Shapes of the embedding ops. embedding_unpack has no Meta kernel: its shape is in the packed data.
#include "ops/embedding.h"

#include "ops/packed_header.h"

namespace torchqat {
namespace {

at::Tensor embedding_pack_meta(const at::Tensor& codes, int64_t bits) {
  check_embedding_pack(codes, bits);
  const c10::SymInt row_bytes = (codes.sym_size(1) * bits + 7) / 8;
  return at::empty_symint({kPackedHeaderBytes + codes.sym_size(0) * row_bytes}, codes.options().dtype(at::kByte));
}

at::Tensor embedding_int_meta(const at::Tensor& indices, const at::Tensor& packed_weight, const at::Tensor& scale,
                              const std::optional<at::Tensor>& zero_point, c10::SymInt embedding_dim,
                              int64_t group_size, at::ScalarType dtype) {
  check_embedding("embedding_int", indices, packed_weight, scale, zero_point, embedding_dim, group_size, dtype);
  c10::SymDimVector sizes(indices.sym_sizes());
  sizes.push_back(std::move(embedding_dim));
  return at::empty_symint(sizes, indices.options().dtype(dtype));
}

at::Tensor embedding_bag_int_meta(const at::Tensor& indices, const at::Tensor& packed_weight, const at::Tensor& scale,
                                  const std::optional<at::Tensor>& zero_point, c10::SymInt embedding_dim,
                                  int64_t group_size, at::ScalarType dtype, const std::optional<at::Tensor>& offsets,
                                  const std::optional<at::Tensor>& per_sample_weights, c10::string_view mode,
                                  bool include_last_offset, int64_t) {
  check_embedding("embedding_bag_int", indices, packed_weight, scale, zero_point, embedding_dim, group_size, dtype);
  check_embedding_bag(indices, offsets, per_sample_weights, mode, include_last_offset);
  return at::empty_symint({embedding_bags(indices, offsets, include_last_offset), std::move(embedding_dim)},
                          indices.options().dtype(dtype));
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("embedding_pack", &embedding_pack_meta);
  m.impl("embedding_int", &embedding_int_meta);
  m.impl("embedding_bag_int", &embedding_bag_int_meta);
}

}  // namespace
}  // namespace torchqat

// Integer embedding tables: schemas, checks and C++ entry.
#include "ops/embedding.h"

#include "ops/packed_header.h"
#include "ops/packing.h"
#include "torchqat/embedding.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("embedding_pack(Tensor codes, int bits) -> Tensor");
  m.def("embedding_unpack(Tensor packed_weight) -> Tensor");
  m.def(
      "embedding_int(Tensor indices, Tensor packed_weight, Tensor scale, Tensor? zero_point, SymInt embedding_dim, "
      "int group_size, ScalarType dtype) -> Tensor");
  m.def(
      "embedding_bag_int(Tensor indices, Tensor packed_weight, Tensor scale, Tensor? zero_point, SymInt embedding_dim, "
      "int group_size, ScalarType dtype, Tensor? offsets=None, Tensor? per_sample_weights=None, str mode=\"mean\", "
      "bool include_last_offset=False, int padding_idx=-1) -> Tensor");
}

namespace {

bool is_index(at::ScalarType dtype) { return dtype == at::kInt || dtype == at::kLong; }

}  // namespace

void check_embedding_pack(const at::Tensor& codes, int64_t bits) {
  TORCH_CHECK_VALUE(bits == 2 || bits == 3 || bits == 4 || bits == 8, "embedding_pack: bits must be 2, 3, 4 or 8, got ", bits);
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kChar || codes.scalar_type() == at::kByte,
                   "embedding_pack: codes must be int8 (signed grids) or uint8, got ", codes.scalar_type());
  TORCH_CHECK_VALUE(codes.dim() == 2, "embedding_pack: codes must have shape [rows, embedding_dim], got ",
                    codes.sym_sizes());
}

EmbeddingCheck check_embedding(const char* op, const at::Tensor& indices, const at::Tensor& packed_weight,
                               const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                               const c10::SymInt& embedding_dim, int64_t group_size, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(is_index(indices.scalar_type()), op, ": indices must be int32 or int64, got ", indices.scalar_type());
  check_packed_tensor(op, "packed_weight", packed_weight);
  TORCH_CHECK_TYPE(at::isFloatingType(scale.scalar_type()), op, ": scale must have a floating dtype, got ",
                   scale.scalar_type());
  TORCH_CHECK_TYPE(at::isFloatingType(dtype), op, ": dtype must be a floating one, got ", dtype);
  TORCH_CHECK_VALUE(embedding_dim >= 0, op, ": embedding_dim must be at least 0, got ", embedding_dim);
  TORCH_CHECK_VALUE(group_size == -1 || group_size >= 1, op, ": group_size must be at least 1, or -1 for whole rows, got ",
                    group_size);
  EmbeddingCheck check;
  TORCH_CHECK_VALUE(scale.dim() == 2, op, ": scale must have shape [rows, groups], got ", scale.sym_sizes());
  check.rows = scale.sym_size(0);
  check.group_size = group_size == -1 ? embedding_dim.max(1) : c10::SymInt(group_size);
  check.groups = (embedding_dim + check.group_size - 1) / check.group_size;
  TORCH_CHECK_VALUE(scale.sym_size(1) == check.groups, op, ": scale must have shape [rows, ", check.groups,
                    "] for embedding_dim ", embedding_dim, " and group_size ", group_size, ", got ", scale.sym_sizes());
  if (zero_point.has_value()) {
    TORCH_CHECK_VALUE(zero_point->sym_sizes() == scale.sym_sizes(), op, ": zero_point must have the shape of scale, ",
                      scale.sym_sizes(), ", got ", zero_point->sym_sizes());
    TORCH_CHECK_TYPE(at::isIntegralType(zero_point->scalar_type(), false), op,
                     ": zero_point must have an integer dtype, got ", zero_point->scalar_type());
  }
  return check;
}

BagMode check_embedding_bag(const at::Tensor& indices, const std::optional<at::Tensor>& offsets,
                            const std::optional<at::Tensor>& per_sample_weights, c10::string_view mode,
                            bool include_last_offset) {
  TORCH_CHECK_VALUE(mode == "sum" || mode == "mean" || mode == "max",
                    "embedding_bag_int: mode must be 'sum', 'mean' or 'max', got '", mode, "'");
  if (offsets.has_value()) {
    TORCH_CHECK_VALUE(indices.dim() == 1, "embedding_bag_int: indices must be 1-D when offsets are given, got shape ",
                      indices.sym_sizes());
    TORCH_CHECK_VALUE(offsets->dim() == 1, "embedding_bag_int: offsets must be 1-D, got shape ", offsets->sym_sizes());
    TORCH_CHECK_TYPE(is_index(offsets->scalar_type()), "embedding_bag_int: offsets must be int32 or int64, got ",
                     offsets->scalar_type());
    TORCH_CHECK_VALUE(!include_last_offset || offsets->sym_size(0) >= 1,
                      "embedding_bag_int: offsets must have at least one entry with include_last_offset, got none");
  } else {
    TORCH_CHECK_VALUE(indices.dim() == 2, "embedding_bag_int: indices must be 2-D when offsets are absent, got shape ",
                      indices.sym_sizes());
  }
  if (per_sample_weights.has_value()) {
    TORCH_CHECK_VALUE(mode == "sum", "embedding_bag_int: per_sample_weights needs mode 'sum', got '", mode, "'");
    TORCH_CHECK_VALUE(per_sample_weights->sym_sizes() == indices.sym_sizes(),
                      "embedding_bag_int: per_sample_weights must have the shape of indices, ", indices.sym_sizes(),
                      ", got ", per_sample_weights->sym_sizes());
    TORCH_CHECK_TYPE(at::isFloatingType(per_sample_weights->scalar_type()),
                     "embedding_bag_int: per_sample_weights must have a floating dtype, got ",
                     per_sample_weights->scalar_type());
  }
  return mode == "sum" ? BagMode::sum : mode == "mean" ? BagMode::mean : BagMode::max;
}

c10::SymInt embedding_bags(const at::Tensor& indices, const std::optional<at::Tensor>& offsets,
                           bool include_last_offset) {
  return offsets.has_value() ? offsets->sym_size(0) - (include_last_offset ? 1 : 0) : indices.sym_size(0);
}

at::Tensor embedding_pack(const at::Tensor& codes, int64_t bits) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::embedding_pack", "")
                             .typed<at::Tensor(const at::Tensor&, int64_t)>();
  return op.call(codes, bits);
}

at::Tensor embedding_unpack(const at::Tensor& packed_weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::embedding_unpack", "")
                             .typed<at::Tensor(const at::Tensor&)>();
  return op.call(packed_weight);
}

at::Tensor embedding_int(const at::Tensor& indices, const at::Tensor& packed_weight, const at::Tensor& scale,
                         const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                         at::ScalarType dtype) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::embedding_int", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            c10::SymInt, int64_t, at::ScalarType)>();
  return op.call(indices, packed_weight, scale, zero_point, embedding_dim, group_size, dtype);
}

at::Tensor embedding_bag_int(const at::Tensor& indices, const at::Tensor& packed_weight, const at::Tensor& scale,
                             const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                             at::ScalarType dtype, const std::optional<at::Tensor>& offsets,
                             const std::optional<at::Tensor>& per_sample_weights, c10::string_view mode,
                             bool include_last_offset, int64_t padding_idx) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchqat::embedding_bag_int", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            c10::SymInt, int64_t, at::ScalarType, const std::optional<at::Tensor>&,
                            const std::optional<at::Tensor>&, c10::string_view, bool, int64_t)>();
  return op.call(indices, packed_weight, scale, zero_point, embedding_dim, group_size, dtype, offsets,
                 per_sample_weights, mode, include_last_offset, padding_idx);
}

}  // namespace torchqat

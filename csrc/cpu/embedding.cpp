// The embedding ops on the CPU: look-ups of packed rows, and bags of them.
#include "ops/embedding.h"

#include <cmath>
#include <vector>

#include "cpu/kernels/embedding.h"
#include "cpu/kernels/packing.h"
#include "numerics/packing.h"
#include "ops/packed_header.h"
#include "ops/packing.h"

namespace torchqat {
namespace {

at::Tensor embedding_pack_cpu(const at::Tensor& codes, int64_t bits) {
  check_embedding_pack(codes, bits);
  const bool is_signed = codes.scalar_type() == at::kChar;
  const int64_t low = is_signed ? -(int64_t{1} << (bits - 1)) : 0, high = low + (int64_t{1} << bits) - 1;
  const at::Tensor bytes = codes_as_bytes("embedding_pack", codes, low, high);
  const int64_t rows = codes.size(0), dim = codes.size(1), row_bytes = numerics::packed_bytes(dim, bits);
  at::Tensor packed = make_packed(PackedFormat::embedding, kEmbeddingVersion, {rows, dim, bits, is_signed, 0, 0},
                                  rows * row_bytes);
  const auto* source = static_cast<const uint8_t*>(bytes.const_data_ptr());
  auto* out = packed.mutable_data_ptr<uint8_t>() + kPackedHeaderBytes;
  at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) cpu::pack_codes(source + r * dim, dim, static_cast<int>(bits), out + r * row_bytes);
  });
  return packed;
}

// The table in a packed tensor and its number of rows.
std::pair<cpu::EmbeddingTable, int64_t> read_table(const char* op, const at::Tensor& packed) {
  const auto [rows, dim, bits, is_signed, unused4, unused5] =
      read_packed(op, "packed_weight", packed, PackedFormat::embedding, kEmbeddingVersion);
  cpu::EmbeddingTable table;
  table.rows = packed.const_data_ptr<uint8_t>() + kPackedHeaderBytes;
  table.dim = dim;
  table.bits = static_cast<int>(bits);
  table.row_bytes = numerics::packed_bytes(dim, bits);
  table.is_signed = is_signed != 0;
  TORCH_CHECK_VALUE(numerics::is_packable(bits) && rows >= 0 && dim >= 0 &&
                        packed.numel() == kPackedHeaderBytes + rows * table.row_bytes,
                    op, ": packed_weight must hold ", rows, " rows of ", dim, " codes of ", bits, " bits, got ",
                    packed.numel(), " bytes");
  return {table, rows};
}

at::Tensor embedding_unpack_cpu(const at::Tensor& packed) {
  const auto [table, rows] = read_table("embedding_unpack", packed);
  at::Tensor codes = at::empty({rows, table.dim}, packed.options().dtype(table.is_signed ? at::kChar : at::kByte));
  auto* out = static_cast<uint8_t*>(codes.mutable_data_ptr());
  for (int64_t r = 0; r < rows; ++r) {
    cpu::unpack_codes(table.rows + r * table.row_bytes, table.dim, table.bits, table.is_signed, out + r * table.dim);
  }
  return codes;
}

// Everything one look-up reads, checked once. T is the compute type.
template <typename T>
struct Lookup {
  cpu::EmbeddingTable table;
  int64_t rows, groups;
  at::Tensor indices, scale, zero_point;
  const char* op;

  Lookup(const char* op_name, const at::Tensor& indices_, const at::Tensor& packed, const at::Tensor& scale_,
         const std::optional<at::Tensor>& zero_point_, int64_t embedding_dim, int64_t group_size, at::ScalarType dtype)
      : op(op_name) {
    const EmbeddingCheck check =
        check_embedding(op, indices_, packed, scale_, zero_point_, embedding_dim, group_size, dtype);
    std::tie(table, rows) = read_table(op, packed);
    TORCH_CHECK_VALUE(table.dim == embedding_dim, op, ": embedding_dim must be ", table.dim, ", that of packed_weight, got ",
                      embedding_dim);
    TORCH_CHECK_VALUE(check.rows == rows, op, ": scale must have ", rows, " rows, got ", check.rows);
    for (const at::Tensor& t : {indices_, scale_, zero_point_.value_or(scale_)}) {
      TORCH_CHECK_VALUE(t.device().is_cpu(), op, ": all tensors must be on the CPU, got ", t.device());
    }
    table.group = check.group_size.expect_int();
    groups = check.groups.expect_int();
    indices = indices_.to(at::kLong).contiguous();
    scale = scale_.contiguous();
    if (zero_point_.has_value()) zero_point = zero_point_->to(at::kInt).contiguous();
    const int64_t* index = indices.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < indices.numel(); ++i) {
      TORCH_CHECK_INDEX(index[i] >= 0 && index[i] < rows, op, ": indices must be in [0, ", rows, "), got ", index[i]);
    }
  }

  // Reads rows; one per thread.
  struct Reader {
    const Lookup& of;
    std::vector<T> scale, zero_point;
    std::vector<uint8_t> codes;

    explicit Reader(const Lookup& lookup)
        : of(lookup), scale(static_cast<size_t>(of.groups)), zero_point(static_cast<size_t>(of.groups), T(0)),
          codes(static_cast<size_t>(of.table.dim)) {}

    void read(int64_t row, T* out) {
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, of.scale.scalar_type(), "embedding_int", [&] {
        const scalar_t* source = of.scale.const_data_ptr<scalar_t>() + row * of.groups;
        for (int64_t g = 0; g < of.groups; ++g) scale[g] = static_cast<T>(source[g]);
      });
      for (const T s : scale) {
        TORCH_CHECK_VALUE(std::isfinite(s) && s > 0, of.op, ": scale must be finite and > 0, got ", s, " in row ", row);
      }
      if (of.zero_point.defined()) {
        const int32_t* source = of.zero_point.template const_data_ptr<int32_t>() + row * of.groups;
        for (int64_t g = 0; g < of.groups; ++g) zero_point[g] = static_cast<T>(source[g]);
      }
      cpu::embedding_row(of.table, row, scale.data(), zero_point.data(), codes.data(), out);
    }
  };
};

template <typename T>
at::Tensor lookup_rows(const at::Tensor& indices, const at::Tensor& packed, const at::Tensor& scale,
                       const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                       at::ScalarType dtype) {
  const Lookup<T> lookup("embedding_int", indices, packed, scale, zero_point, embedding_dim, group_size, dtype);
  at::DimVector sizes(indices.sizes());
  sizes.push_back(embedding_dim);
  at::Tensor out = at::empty(sizes, indices.options().dtype(dtype));
  const int64_t* index = lookup.indices.template const_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, embedding_dim));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "embedding_int", [&] {
    auto* target = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, indices.numel(), grain, [&](int64_t begin, int64_t end) {
      typename Lookup<T>::Reader reader(lookup);
      std::vector<T> row(static_cast<size_t>(embedding_dim));
      for (int64_t i = begin; i < end; ++i) {
        reader.read(index[i], row.data());
        for (int64_t j = 0; j < embedding_dim; ++j) target[i * embedding_dim + j] = static_cast<scalar_t>(row[j]);
      }
    });
  });
  return out;
}

at::Tensor embedding_int_cpu(const at::Tensor& indices, const at::Tensor& packed, const at::Tensor& scale,
                             const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                             at::ScalarType dtype) {
  return dtype == at::kDouble
             ? lookup_rows<double>(indices, packed, scale, zero_point, embedding_dim, group_size, dtype)
             : lookup_rows<float>(indices, packed, scale, zero_point, embedding_dim, group_size, dtype);
}

// Where bag b begins, and one past the last: [bags + 1].
std::vector<int64_t> bag_bounds(const at::Tensor& indices, const std::optional<at::Tensor>& offsets, int64_t bags) {
  const int64_t count = indices.numel();
  std::vector<int64_t> bounds(static_cast<size_t>(bags) + 1, count);
  if (offsets.has_value()) {
    const at::Tensor starts = offsets->to(at::kLong).contiguous();
    const int64_t* start = starts.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < starts.numel(); ++b) bounds[b] = start[b];
    TORCH_CHECK_VALUE(starts.numel() == 0 || bounds[0] == 0, "embedding_bag_int: offsets must begin with 0, got ", bounds[0]);
    for (int64_t b = 0; b < bags; ++b) {
      TORCH_CHECK_VALUE(bounds[b] <= bounds[b + 1] && bounds[b + 1] <= count,
                        "embedding_bag_int: offsets must ascend and be at most ", count, ", the number of indices, got ",
                        bounds[b + 1], " after ", bounds[b]);
    }
  } else {
    for (int64_t b = 0; b < bags; ++b) bounds[b] = b * indices.size(1);
  }
  return bounds;
}

template <typename T>
at::Tensor bag_rows(const at::Tensor& indices, const at::Tensor& packed, const at::Tensor& scale,
                    const std::optional<at::Tensor>& zero_point, int64_t dim, int64_t group_size, at::ScalarType dtype,
                    const std::optional<at::Tensor>& offsets, const std::optional<at::Tensor>& per_sample_weights,
                    BagMode mode, bool include_last_offset, int64_t padding_idx) {
  const Lookup<T> lookup("embedding_bag_int", indices, packed, scale, zero_point, dim, group_size, dtype);
  const int64_t bags = embedding_bags(indices, offsets, include_last_offset).expect_int();
  const std::vector<int64_t> bounds = bag_bounds(indices, offsets, bags);
  const auto compute = std::is_same_v<T, double> ? at::kDouble : at::kFloat;
  at::Tensor out = at::zeros({bags, dim}, indices.options().dtype(compute));
  at::Tensor weights;
  if (per_sample_weights.has_value()) weights = per_sample_weights->to(compute).contiguous();
  const T* weight = weights.defined() ? weights.const_data_ptr<T>() : nullptr;
  const int64_t* index = lookup.indices.template const_data_ptr<int64_t>();
  T* target = out.mutable_data_ptr<T>();
  at::parallel_for(0, bags, 1, [&](int64_t begin, int64_t end) {
    typename Lookup<T>::Reader reader(lookup);
    std::vector<T> row(static_cast<size_t>(dim));
    for (int64_t b = begin; b < end; ++b) {
      T* bag = target + b * dim;
      int64_t taken = 0;
      for (int64_t i = bounds[b]; i < bounds[b + 1]; ++i) {
        if (index[i] == padding_idx) continue;
        reader.read(index[i], row.data());
        const T w = weight != nullptr ? weight[i] : T(1);
        for (int64_t j = 0; j < dim; ++j) {
          bag[j] = mode != BagMode::max ? bag[j] + row[j] * w : taken == 0 || row[j] > bag[j] ? row[j] : bag[j];
        }
        ++taken;
      }
      if (mode == BagMode::mean && taken > 1) {
        for (int64_t j = 0; j < dim; ++j) bag[j] /= static_cast<T>(taken);
      }
    }
  });
  return out.to(dtype);
}

at::Tensor embedding_bag_int_cpu(const at::Tensor& indices, const at::Tensor& packed, const at::Tensor& scale,
                                 const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                                 at::ScalarType dtype, const std::optional<at::Tensor>& offsets,
                                 const std::optional<at::Tensor>& per_sample_weights, c10::string_view mode_name,
                                 bool include_last_offset, int64_t padding_idx) {
  const BagMode mode = check_embedding_bag(indices, offsets, per_sample_weights, mode_name, include_last_offset);
  const auto bag = dtype == at::kDouble ? &bag_rows<double> : &bag_rows<float>;
  return bag(indices, packed, scale, zero_point, embedding_dim, group_size, dtype, offsets, per_sample_weights, mode,
             include_last_offset, padding_idx);
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("embedding_pack", &embedding_pack_cpu);
  m.impl("embedding_unpack", &embedding_unpack_cpu);
  m.impl("embedding_int", &embedding_int_cpu);
  m.impl("embedding_bag_int", &embedding_bag_int_cpu);
}

}  // namespace
}  // namespace torchqat

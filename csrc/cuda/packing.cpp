// CUDA kernels of pack_bits, unpack_bits and the integer embeddings. Packing checks the codes' range and so waits for the device,
// as unpacking a table waits for its sizes: neither is part of a step.
#include "ops/torch_headers.h"

#include "cuda/device.h"
#include "cuda/kernels/packing.h"
#include "cuda/through_cpu.h"
#include "numerics/packing.h"
#include "ops/embedding.h"
#include "ops/packed_header.h"
#include "ops/packing.h"

#include <cstring>

namespace torchqat::cuda {
namespace {

at::Tensor pack_bits_op(const at::Tensor& codes, int64_t bits) {
  check_packable_bits("pack_bits", bits);
  check_integer_codes("pack_bits", codes);
  const OnDevice device(codes);
  const at::Tensor bytes = stream_codes_as_bytes("pack_bits", codes, bits);
  at::Tensor packed = at::empty({numerics::packed_bytes(codes.numel(), bits)}, codes.options().dtype(at::kByte));
  cuda::pack_bits(static_cast<const uint8_t*>(bytes.const_data_ptr()), codes.numel(), static_cast<int>(bits),
                  packed.mutable_data_ptr<uint8_t>(), device.stream());
  return packed;
}

at::Tensor unpack_bits_op(const at::Tensor& packed, int64_t bits, int64_t numel, bool is_signed) {
  check_unpack_bits(packed, bits, numel);
  const OnDevice device(packed);
  const at::Tensor source = packed.contiguous();
  at::Tensor codes = at::empty({numel}, packed.options().dtype(is_signed ? at::kChar : at::kByte));
  cuda::unpack_bits(source.const_data_ptr<uint8_t>(), numel, static_cast<int>(bits), is_signed,
                    static_cast<uint8_t*>(codes.mutable_data_ptr()), device.stream());
  return codes;
}

at::Tensor embedding_pack_op(const at::Tensor& codes, int64_t bits) {
  return through_cpu<int64_t>("torchqat::embedding_pack", codes, bits);
}

at::Tensor embedding_unpack_op(const at::Tensor& packed) { return through_cpu("torchqat::embedding_unpack", packed); }

// The header is compared, and bits and signedness are read, on the device.
struct Lookup {
  at::Tensor packed, scale, zero_point, indices;
  Embedding args;

  Lookup(const char* op, const at::Tensor& indices_, const at::Tensor& packed_, const at::Tensor& scale_,
         const std::optional<at::Tensor>& zero_point_, int64_t dim, int64_t group_size, at::ScalarType dtype) {
    const EmbeddingCheck check = check_embedding(op, indices_, packed_, scale_, zero_point_, dim, group_size, dtype);
    for (const at::Tensor& t : {packed_, scale_, zero_point_.value_or(scale_)}) {
      TORCH_CHECK_VALUE(t.device() == indices_.device(), op, ": all tensors must be on the device of indices, ",
                        indices_.device(), ", got ", t.device());
    }
    const auto compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
    packed = packed_.contiguous();
    if (reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % 4 != 0) packed = packed.clone();
    scale = in_type(scale_, compute);
    if (zero_point_.has_value()) zero_point = in_type(*zero_point_, compute);
    indices = in_type(indices_, at::kLong);
    args.rows = check.rows.expect_int();
    args.dim = dim;
    args.group = check.group_size.expect_int();
    args.groups = check.groups.expect_int();
    const auto words = packed_header_words(PackedFormat::embedding, kEmbeddingVersion, {args.rows, dim, 0, 0, 0, 0});
    std::memcpy(args.header.words, words.data(), sizeof(args.header.words));
    args.bytes = packed.numel();
    TORCH_CHECK_VALUE(args.bytes >= kPackedHeaderBytes, op, ": packed_weight must begin with torchqat's header of 64 bytes, got ",
                      args.bytes, " bytes");
    args.packed = packed.const_data_ptr<uint8_t>();
    args.scale = scale.const_data_ptr();
    args.zero_point = zero_point.defined() ? zero_point.const_data_ptr() : nullptr;
    args.indices = indices.const_data_ptr<int64_t>();
    args.count = indices.numel();
  }
};

at::Tensor embedding_int_op(const at::Tensor& indices, const at::Tensor& packed, const at::Tensor& scale,
                            const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                            at::ScalarType dtype) {
  Lookup lookup("embedding_int", indices, packed, scale, zero_point, embedding_dim, group_size, dtype);
  const OnDevice device(indices);
  at::DimVector sizes(indices.sizes());
  sizes.push_back(embedding_dim);
  at::Tensor out = at::empty(sizes, indices.options().dtype(dtype));
  lookup.args.out = out.mutable_data_ptr();
  embedding(lookup.args, float_type(dtype), device.stream());
  return out;
}

at::Tensor embedding_bag_int_op(const at::Tensor& indices, const at::Tensor& packed, const at::Tensor& scale,
                                const std::optional<at::Tensor>& zero_point, int64_t embedding_dim, int64_t group_size,
                                at::ScalarType dtype, const std::optional<at::Tensor>& offsets,
                                const std::optional<at::Tensor>& per_sample_weights, c10::string_view mode_name,
                                bool include_last_offset, int64_t padding_idx) {
  const BagMode mode = check_embedding_bag(indices, offsets, per_sample_weights, mode_name, include_last_offset);
  Lookup lookup("embedding_bag_int", indices, packed, scale, zero_point, embedding_dim, group_size, dtype);
  const OnDevice device(indices);
  auto& args = lookup.args;
  args.bag = mode == BagMode::sum ? Bag::sum : mode == BagMode::mean ? Bag::mean : Bag::max;
  args.bags = embedding_bags(indices, offsets, include_last_offset).expect_int();
  at::Tensor starts, weights;
  if (offsets.has_value()) {
    starts = in_type(*offsets, at::kLong);
    args.offsets = starts.const_data_ptr<int64_t>();
    args.offset_count = starts.numel();
  }
  if (per_sample_weights.has_value()) {
    weights = in_type(*per_sample_weights, lookup.scale.scalar_type());
    args.weight = weights.const_data_ptr();
  }
  args.padding_index = padding_idx;
  at::Tensor out = at::empty({args.bags, embedding_dim}, indices.options().dtype(dtype));
  args.out = out.mutable_data_ptr();
  embedding(args, float_type(dtype), device.stream());
  return out;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("pack_bits", &pack_bits_op);
  m.impl("unpack_bits", &unpack_bits_op);
  m.impl("embedding_pack", &embedding_pack_op);
  m.impl("embedding_unpack", &embedding_unpack_op);
  m.impl("embedding_int", &embedding_int_op);
  m.impl("embedding_bag_int", &embedding_bag_int_op);
}

}  // namespace
}  // namespace torchqat::cuda

// Shapes of pack_bits and unpack_bits.
#include "ops/packing.h"

namespace torchqat {
namespace {

at::Tensor pack_bits_meta(const at::Tensor& codes, int64_t bits) {
  check_packable_bits("pack_bits", bits);
  check_integer_codes("pack_bits", codes);
  return at::empty_symint({(codes.sym_numel() * bits + 7) / 8}, codes.options().dtype(at::kByte));
}

at::Tensor unpack_bits_meta(const at::Tensor& packed, int64_t bits, c10::SymInt numel, bool is_signed) {
  check_unpack_bits(packed, bits, numel);
  return at::empty_symint({std::move(numel)}, packed.options().dtype(is_signed ? at::kChar : at::kByte));
}

TORCH_LIBRARY_IMPL(torchqat, Meta, m) {
  m.impl("pack_bits", &pack_bits_meta);
  m.impl("unpack_bits", &unpack_bits_meta);
}

}  // namespace
}  // namespace torchqat

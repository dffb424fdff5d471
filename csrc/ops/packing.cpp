// pack_bits and unpack_bits: schemas, checks and C++ entry.
#include "ops/packing.h"

#include "numerics/packing.h"
#include "torchqat/packing.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("pack_bits(Tensor codes, int bits) -> Tensor");
  m.def("unpack_bits(Tensor packed, int bits, SymInt numel, bool signed) -> Tensor");
}

void check_packable_bits(const char* op, int64_t bits) {
  TORCH_CHECK_VALUE(numerics::is_packable(bits), op, ": bits must be 1, 2, 3, 4 or 8, got ", bits);
}

void check_integer_codes(const char* op, const at::Tensor& codes) {
  TORCH_CHECK_TYPE(at::isIntegralType(codes.scalar_type(), /*includeBool=*/false), op,
                   ": codes must have an integer dtype, got ", codes.scalar_type());
}

void check_unpack_bits(const at::Tensor& packed, int64_t bits, const c10::SymInt& numel) {
  check_packable_bits("unpack_bits", bits);
  TORCH_CHECK_TYPE(packed.scalar_type() == at::kByte, "unpack_bits: packed must be uint8, got ", packed.scalar_type());
  TORCH_CHECK_VALUE(packed.dim() == 1, "unpack_bits: packed must be 1-D, got shape ", packed.sym_sizes());
  TORCH_CHECK_VALUE(numel >= 0, "unpack_bits: numel must be at least 0, got ", numel);
  const c10::SymInt bytes = (numel * bits + 7) / 8;
  TORCH_CHECK_VALUE(packed.sym_numel() == bytes, "unpack_bits: packed must have ", bytes, " bytes for ", numel,
                    " codes of ", bits, " bits, got ", packed.sym_numel());
}

at::Tensor codes_as_bytes(const char* op, const at::Tensor& codes, int64_t low, int64_t high) {
  if (codes.numel() > 0) {
    const auto [least, most] = at::aminmax(codes);
    const int64_t first = least.item<int64_t>(), last = most.item<int64_t>();
    TORCH_CHECK_VALUE(low <= first && last <= high, op, ": codes must be in [", low, ", ", high, "], got ",
                      first < low ? first : last);
  }
  const bool is_byte = codes.scalar_type() == at::kChar || codes.scalar_type() == at::kByte;
  return (is_byte ? codes : codes.to(at::kShort).bitwise_and(0xff).to(at::kByte)).contiguous();
}

at::Tensor stream_codes_as_bytes(const char* op, const at::Tensor& codes, int64_t bits) {
  const int64_t half = int64_t{1} << (bits - 1);
  if (codes.numel() > 0) {
    const auto [least, most] = at::aminmax(codes);
    const int64_t first = least.item<int64_t>(), last = most.item<int64_t>();
    // One grid or the other: -1 and 2^bits - 1 have the same lowest bits.
    TORCH_CHECK_VALUE((-half <= first && last < half) || (first >= 0 && last < 2 * half), op, ": codes of ", bits,
                      " bits must be in [", -half, ", ", half - 1, "] or in [0, ", 2 * half - 1, "], got ", first, " to ", last);
  }
  return codes_as_bytes(op, codes, -half, 2 * half - 1);
}

at::Tensor pack_bits(const at::Tensor& codes, int64_t bits) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::pack_bits", "")
                             .typed<at::Tensor(const at::Tensor&, int64_t)>();
  return op.call(codes, bits);
}

at::Tensor unpack_bits(const at::Tensor& packed, int64_t bits, int64_t numel, bool is_signed) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchqat::unpack_bits", "")
                             .typed<at::Tensor(const at::Tensor&, int64_t, c10::SymInt, bool)>();
  return op.call(packed, bits, numel, is_signed);
}

}  // namespace torchqat

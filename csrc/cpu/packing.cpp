// pack_bits and unpack_bits on the CPU.
#include "ops/packing.h"

#include "cpu/kernels/packing.h"
#include "numerics/packing.h"

namespace torchqat {
namespace {

// A multiple of eight codes, so that every thread begins on a whole byte.
constexpr int64_t kGrain = 1 << 16;

at::Tensor pack_bits_cpu(const at::Tensor& codes, int64_t bits) {
  check_packable_bits("pack_bits", bits);
  check_integer_codes("pack_bits", codes);
  const at::Tensor bytes = stream_codes_as_bytes("pack_bits", codes, bits);
  const int64_t count = codes.numel();
  at::Tensor packed = at::empty({numerics::packed_bytes(count, bits)}, codes.options().dtype(at::kByte));
  const auto* source = static_cast<const uint8_t*>(bytes.const_data_ptr());
  auto* stream = packed.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, (count + kGrain - 1) / kGrain, 1, [&](int64_t begin, int64_t end) {
    begin *= kGrain;
    end = std::min(count, end * kGrain);
    cpu::pack_codes(source + begin, end - begin, static_cast<int>(bits), stream + begin * bits / 8);
  });
  return packed;
}

at::Tensor unpack_bits_cpu(const at::Tensor& packed, int64_t bits, int64_t numel, bool is_signed) {
  check_unpack_bits(packed, bits, numel);
  const at::Tensor source = packed.contiguous();
  at::Tensor codes = at::empty({numel}, packed.options().dtype(is_signed ? at::kChar : at::kByte));
  const auto* stream = source.const_data_ptr<uint8_t>();
  auto* out = static_cast<uint8_t*>(codes.mutable_data_ptr());
  at::parallel_for(0, (numel + kGrain - 1) / kGrain, 1, [&](int64_t begin, int64_t end) {
    begin *= kGrain;
    end = std::min(numel, end * kGrain);
    cpu::unpack_codes(stream + begin * bits / 8, end - begin, static_cast<int>(bits), is_signed, out + begin);
  });
  return codes;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("pack_bits", &pack_bits_cpu);
  m.impl("unpack_bits", &unpack_bits_cpu);
}

}  // namespace
}  // namespace torchqat

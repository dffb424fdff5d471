// Writing and checking the header of packed weights.
#include "ops/packed_header.h"

#include <cstring>

#include "cpu/large_pages.h"
#include "cpu/output.h"

namespace torchqat {
namespace {

constexpr char kMagic[8] = {'t', 'o', 'r', 'c', 'h', 'q', 'a', 't'};

struct Header {
  char magic[8];
  uint32_t format;
  uint32_t version;
  PackedSizes sizes;
};
static_assert(sizeof(Header) == kPackedHeaderBytes);

const char* format_name(uint32_t format) {
  switch (static_cast<PackedFormat>(format)) {
    case PackedFormat::linear_int8: return "linear_int8";
    case PackedFormat::linear_grouped: return "linear_grouped";
    case PackedFormat::conv_int8: return "conv_int8";
    case PackedFormat::embedding: return "embedding";
  }
  return "unknown";
}

}  // namespace

PackedHeaderWords packed_header_words(PackedFormat format, uint32_t version, const PackedSizes& sizes) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.format = static_cast<uint32_t>(format);
  header.version = version;
  header.sizes = sizes;
  PackedHeaderWords words;
  std::memcpy(words.data(), &header, sizeof(header));
  return words;
}

at::Tensor make_packed(PackedFormat format, uint32_t version, const PackedSizes& sizes, int64_t payload,
                       bool lasting) {
  const int64_t bytes = kPackedHeaderBytes + payload;
  at::Tensor packed = lasting ? empty_on_large_pages(bytes) : cpu::result_bytes(bytes);
  const PackedHeaderWords header = packed_header_words(format, version, sizes);
  std::memcpy(packed.mutable_data_ptr<uint8_t>(), header.data(), sizeof(header));
  return packed;
}

void check_packed_tensor(const char* op, const char* argument, const at::Tensor& packed) {
  TORCH_CHECK_TYPE(packed.scalar_type() == at::kByte, op, ": ", argument, " must be uint8, got ", packed.scalar_type());
  TORCH_CHECK_VALUE(packed.dim() == 1, op, ": ", argument, " must be a 1-D packed weight, got shape ", packed.sym_sizes());
}

PackedSizes read_packed(const char* op, const char* argument, const at::Tensor& packed, PackedFormat format,
                        uint32_t version) {
  check_packed_tensor(op, argument, packed);
  TORCH_CHECK_VALUE(packed.device().is_cpu(), op, ": ", argument, " must be on the CPU, got ", packed.device());
  TORCH_CHECK_VALUE(packed.is_contiguous(), op, ": ", argument, " must be contiguous");
  Header header{};
  TORCH_CHECK_VALUE(packed.numel() >= kPackedHeaderBytes, op, ": ", argument,
                    " must begin with torchqat's header of 64 bytes, got ", packed.numel(), " bytes");
  std::memcpy(&header, packed.const_data_ptr<uint8_t>(), sizeof(header));
  TORCH_CHECK_VALUE(std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0, op, ": ", argument,
                    " must be a weight packed by torchqat, got a buffer without its mark");
  TORCH_CHECK_VALUE(header.format == static_cast<uint32_t>(format), op, ": ", argument, " must have the format ",
                    format_name(static_cast<uint32_t>(format)), ", got ", format_name(header.format), " (",
                    header.format, ")");
  TORCH_CHECK_VALUE(header.version >= 1 && header.version <= version, op, ": ", argument, " must have version 1 to ",
                    version, ", got ", header.version, "; it was packed by another torchqat: pack the codes again");
  return header.sizes;
}

}  // namespace torchqat

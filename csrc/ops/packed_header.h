// The first 64 bytes of every packed weight: what it is, in which version, for which sizes. Reading it is how an op
// refuses a buffer that another op, another library or a newer torchqat made.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "ops/torch_headers.h"

namespace torchqat {

enum class PackedFormat : uint32_t { linear_int8 = 1, linear_grouped = 2, conv_int8 = 3, embedding = 4 };

using PackedSizes = std::array<int64_t, 6>;  // their meaning is the format's

constexpr int64_t kPackedHeaderBytes = 64;

// A 1-D uint8 CPU tensor of the header and `payload` bytes after it, which are not initialised. `lasting`: it will be read
// again and again (cpu/large_pages.h), as a deployed layer's weight is and a training step's is not.
at::Tensor make_packed(PackedFormat format, uint32_t version, const PackedSizes& sizes, int64_t payload,
                       bool lasting = false);

// The header itself, for devices on which it is compared and never read.
using PackedHeaderWords = std::array<uint32_t, kPackedHeaderBytes / 4>;
PackedHeaderWords packed_header_words(PackedFormat format, uint32_t version, const PackedSizes& sizes);

// The sizes of a packed weight, after checking type, magic, format and version (at most `version`). The caller checks
// that the payload has the size it expects.
PackedSizes read_packed(const char* op, const char* argument, const at::Tensor& packed, PackedFormat format,
                        uint32_t version);

// The part of the checks that Meta can do too.
void check_packed_tensor(const char* op, const char* argument, const at::Tensor& packed);

}  // namespace torchqat

// Checks shared by the ops that take codes of a few bits.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

void check_packable_bits(const char* op, int64_t bits);
void check_integer_codes(const char* op, const at::Tensor& codes);
void check_unpack_bits(const at::Tensor& packed, int64_t bits, const c10::SymInt& numel);

// Codes of a bit stream as contiguous bytes, each checked to be on the signed or on the unsigned grid of that many bits.
at::Tensor stream_codes_as_bytes(const char* op, const at::Tensor& codes, int64_t bits);

// Codes as contiguous bytes (int8 for signed ones), each checked to be in [low, high].
at::Tensor codes_as_bytes(const char* op, const at::Tensor& codes, int64_t low, int64_t high);

}  // namespace torchqat

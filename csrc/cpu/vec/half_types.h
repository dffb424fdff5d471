// 16-bit floats in memory: raw bits that Vec widens on load and rounds once on store. Layout of c10::BFloat16 and c10::Half.
#pragma once
#include <cstdint>

namespace torchqat::cpu {

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

}  // namespace torchqat::cpu

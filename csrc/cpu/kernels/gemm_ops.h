// The products a tile can compute: each multiplies one 32-bit group of A by one of B and adds into a 32-bit sum.
#pragma once

namespace torchqat::cpu {

struct U8S8 {};  // A unsigned, B signed bytes: activations x weights
struct S8U8 {};  // A signed, B unsigned bytes: gradient limbs x codes
struct BF16 {};  // pairs of bfloat16, float32 sums

}  // namespace torchqat::cpu

// Which CPU kernel paths were built, which this CPU supports, and which one is in use. No torch.
#pragma once
#include <string>
#include <vector>

namespace torchqat::cpu {

// Ordered: a CPU that supports one level supports those before it.
//   avx2   AVX2, FMA, F16C       avx512  AVX-512 F/BW/DQ/VL/VBMI and VNNI      amx  avx512, AVX512_BF16, AMX-INT8/BF16
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, amx = 3 };

const char* isa_name(Isa isa);

// The highest level this CPU and operating system support.
Isa supported_isa();

// The level in use: supported_isa(), or what TORCHQAT_CPU_ISA or set_isa() asked for.
Isa current_isa();

// Throws std::invalid_argument for an unknown name or a level this CPU lacks.
void set_isa(const std::string& name);

std::vector<std::string> supported_isa_names();

// AVX512_BF16 is a separate question: some CPUs have VNNI without it. False below the avx512 level.
bool use_avx512_bf16();

// The kernel of a table {scalar, avx2, avx512, amx} for the level in use; a missing entry (nullptr) means the
// next lower one serves.
template <typename Fn>
Fn select(Fn scalar, Fn avx2, Fn avx512 = nullptr, Fn amx = nullptr) {
  const Fn table[] = {scalar, avx2, avx512, amx};
  for (int level = static_cast<int>(current_isa()); level > 0; --level) {
    if (table[level] != nullptr) return table[level];
  }
  return scalar;
}

}  // namespace torchqat::cpu

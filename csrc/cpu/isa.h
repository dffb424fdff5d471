// Which CPU kernel paths were built, which this CPU supports, and which one is in use. No torch.
#pragma once
#include <string>
#include <vector>

namespace torchqat::cpu {

// Ordered, the fastest last; a CPU that supports one level supports those before it, but that AVX-512 does not imply AVX-VNNI.
//   avx2     AVX2, FMA, F16C                     avxvnni  avx2, AVX-VNNI
//   avx512   AVX-512 F/BW/DQ/VL and VNNI         amx      avx512, AVX512_BF16, AMX-INT8/BF16
enum class Isa : int { scalar = 0, avx2 = 1, avxvnni = 2, avx512 = 3, amx = 4 };

const char* isa_name(Isa isa);

// The highest level this CPU and operating system support.
Isa supported_isa();

// Whether this CPU and operating system support a level.
bool is_supported(Isa isa);

// The level in use: supported_isa(), or what TORCHQAT_CPU_ISA or set_isa() asked for.
Isa current_isa();

// Throws std::invalid_argument for an unknown name or a level this CPU lacks.
void set_isa(const std::string& name);

std::vector<std::string> supported_isa_names();

// AVX512_BF16 and AVX512_VBMI are separate questions: some CPUs have VNNI without them. False below the avx512 level.
bool use_avx512_bf16();
bool use_avx512_vbmi();

// The kernel of a table for the level in use; a missing entry (nullptr) means the next lower one serves.
template <typename Fn>
Fn select(Fn scalar, Fn avx2, Fn avxvnni, Fn avx512, Fn amx) {
  const Fn table[] = {scalar, avx2, avxvnni, avx512, amx};
  const Isa chosen = current_isa();
  for (int level = static_cast<int>(chosen); level > 0; --level) {
    if (static_cast<Isa>(level) == Isa::avxvnni && chosen != Isa::avxvnni) continue;
    if (table[level] != nullptr) return table[level];
  }
  return scalar;
}

// The same for kernels without integer products, to which AVX-VNNI is AVX2.
template <typename Fn>
Fn select(Fn scalar, Fn avx2, Fn avx512 = nullptr, Fn amx = nullptr) {
  return select<Fn>(scalar, avx2, nullptr, avx512, amx);
}

}  // namespace torchqat::cpu

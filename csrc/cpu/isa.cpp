// CPU feature detection and the choice of kernel path.
#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace torchqat::cpu {
namespace {

#if defined(__x86_64__) && defined(__linux__)
bool amx_usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25;
  const unsigned need = amx_bf16 | amx_tile | amx_int8;
  if ((d & need) != need) return false;
  // Linux hands out the tile registers on request only (ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA).
  constexpr long arch_req_xcomp_perm = 0x1023, xtiledata = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xtiledata) == 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return Isa::scalar;
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")))
    return __builtin_cpu_supports("avxvnni") ? Isa::avxvnni : Isa::avx2;
  return __builtin_cpu_supports("avx512bf16") && amx_usable() ? Isa::amx : Isa::avx512;
}
bool detect_avxvnni() { return __builtin_cpu_supports("avxvnni"); }
bool detect_bf16() { return __builtin_cpu_supports("avx512bf16"); }
bool detect_vbmi() { return __builtin_cpu_supports("avx512vbmi"); }
#else
Isa detect() { return Isa::scalar; }
bool detect_avxvnni() { return false; }
bool detect_bf16() { return false; }
bool detect_vbmi() { return false; }
#endif

constexpr const char* names[] = {"scalar", "avx2", "avxvnni", "avx512", "amx"};

Isa parse(const std::string& name) {
  for (int level = 0; level <= static_cast<int>(supported_isa()); ++level) {
    if (name == names[level] && is_supported(static_cast<Isa>(level))) return static_cast<Isa>(level);
  }
  std::string known;
  for (const auto& n : supported_isa_names()) known += (known.empty() ? "" : ", ") + n;
  throw std::invalid_argument("TORCHQAT_CPU_ISA must be one that this CPU supports (" + known + "), got '" + name + "'");
}

std::atomic<int>& chosen() {
  static std::atomic<int> level = [] {
    const char* wanted = std::getenv("TORCHQAT_CPU_ISA");
    return static_cast<int>(wanted != nullptr && *wanted != '\0' ? parse(wanted) : supported_isa());
  }();
  return level;
}

}  // namespace

const char* isa_name(Isa isa) { return names[static_cast<int>(isa)]; }

Isa supported_isa() {
  static const Isa isa = detect();
  return isa;
}

bool is_supported(Isa isa) {
  static const bool avxvnni = detect_avxvnni();
  return isa <= supported_isa() && (isa != Isa::avxvnni || avxvnni);
}

Isa current_isa() { return static_cast<Isa>(chosen().load(std::memory_order_relaxed)); }

void set_isa(const std::string& name) { chosen().store(static_cast<int>(parse(name))); }

std::vector<std::string> supported_isa_names() {
  std::vector<std::string> supported;
  for (int level = 0; level <= static_cast<int>(supported_isa()); ++level) {
    if (is_supported(static_cast<Isa>(level))) supported.emplace_back(names[level]);
  }
  return supported;
}

bool use_avx512_bf16() {
  static const bool has = detect_bf16();
  return has && current_isa() >= Isa::avx512;
}

bool use_avx512_vbmi() {
  static const bool has = detect_vbmi();
  return has && current_isa() >= Isa::avx512;
}

}  // namespace torchqat::cpu

// The ISA choice as ops, so that one process can test every path: _cpu_isa() and _set_cpu_isa(name).
#include "ops/torch_headers.h"

#include "cpu/isa.h"

#include <ATen/Parallel.h>

#if defined(__linux__) && AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for would run serially: compile with -fopenmp (cmake/CompileOptions.cmake)"
#endif

namespace torchqat {
namespace {

std::string current_name() { return cpu::isa_name(cpu::current_isa()); }

void set_by_name(std::string name) {
  try {
    cpu::set_isa(name);
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK_VALUE(false, "_set_cpu_isa: ", error.what());
  }
}

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("_cpu_isa() -> str", &current_name);
  m.def("_set_cpu_isa(str name) -> ()", &set_by_name);
}

}  // namespace
}  // namespace torchqat

// Python module _C: what was built and what this CPU can run. Tensors go through torch.ops, never through here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/isa.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "torchqat build and CPU information";
  m.def("build_info", [] {
    pybind11::dict info;
    info["version"] = TORCHQAT_VERSION;
    info["torch_version"] = TORCHQAT_TORCH_VERSION;
    info["compiler"] = TORCHQAT_COMPILER;
    info["cuda"] = static_cast<bool>(TORCHQAT_WITH_CUDA);
    info["cuda_version"] = TORCHQAT_CUDA_VERSION;
    return info;
  }, "Versions and options this package was built with.");
  m.def("supported_isas", &torchqat::cpu::supported_isa_names, "CPU kernel paths this machine can run, lowest first.");
}

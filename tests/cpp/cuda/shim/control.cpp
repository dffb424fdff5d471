// What the Python tests steer: the order in which a block's threads take turns, and the capability that the device claims.
#include "ops/torch_headers.h"

#include "cuda_runtime.h"

TORCH_LIBRARY(torchqat_cuda_shim, m) {
  m.def("set_order(int order) -> ()", [](int64_t order) { shim::set_order(static_cast<shim::Order>(order)); });
  m.def("set_capability(int capability) -> ()", [](int64_t c) { shim::set_capability(static_cast<int>(c)); });
}

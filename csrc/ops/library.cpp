// Library-wide registration. Each op family defines its own schemas in ops/<stem>.cpp with TORCH_LIBRARY_FRAGMENT.
#include "ops/torch_headers.h"

TORCH_LIBRARY(torchqat, m) {
  // TorchScript files name the ops only; this lets a Python process find what to import for them.
  m.set_python_module("torchqat");
}

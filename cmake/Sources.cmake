# Every source file of the library, by hand: one line each, sorted, so that a missing file is an error.
set(TORCHQAT_KERNEL_SOURCES
  csrc/cpu/isa.cpp
)

set(TORCHQAT_TORCH_SOURCES
  csrc/cpu/isa_ops.cpp
  csrc/ops/library.cpp
)

set(TORCHQAT_CUDA_SOURCES
)

set(TORCHQAT_PUBLIC_HEADERS
  csrc/include/torchqat/export.h
  csrc/include/torchqat/torchqat.h
)

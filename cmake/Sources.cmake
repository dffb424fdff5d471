# Every source file of the library, by hand: one line each, sorted, so that a missing file is an error.
set(TORCHQAT_KERNEL_SOURCES
  csrc/cpu/isa.cpp
  csrc/cpu/kernels/embedding_scalar.cpp
  csrc/cpu/kernels/packing_scalar.cpp
)

set(TORCHQAT_TORCH_SOURCES
  csrc/cpu/embedding.cpp
  csrc/cpu/isa_ops.cpp
  csrc/cpu/packing.cpp
  csrc/meta/embedding.cpp
  csrc/meta/packing.cpp
  csrc/ops/embedding.cpp
  csrc/ops/library.cpp
  csrc/ops/packed_header.cpp
  csrc/ops/packing.cpp
)

set(TORCHQAT_CUDA_SOURCES
)

set(TORCHQAT_PUBLIC_HEADERS
  csrc/include/torchqat/embedding.h
  csrc/include/torchqat/export.h
  csrc/include/torchqat/packing.h
  csrc/include/torchqat/torchqat.h
)

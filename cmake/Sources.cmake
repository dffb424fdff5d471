# Every source file of the library, by hand: one line each, sorted, so that a missing file is an error.
set(TORCHQAT_KERNEL_SOURCES
  csrc/cpu/isa.cpp
  csrc/cpu/kernels/conv_int8_amx.cpp
  csrc/cpu/kernels/conv_int8_avx2.cpp
  csrc/cpu/kernels/conv_int8_avx512.cpp
  csrc/cpu/kernels/conv_int8_scalar.cpp
  csrc/cpu/kernels/conv_plan.cpp
  csrc/cpu/kernels/embedding_scalar.cpp
  csrc/cpu/kernels/packing_scalar.cpp
)

set(TORCHQAT_TORCH_SOURCES
  csrc/autocast/conv_int8.cpp
  csrc/cpu/conv_int8.cpp
  csrc/cpu/embedding.cpp
  csrc/cpu/isa_ops.cpp
  csrc/cpu/packing.cpp
  csrc/meta/conv_int8.cpp
  csrc/meta/embedding.cpp
  csrc/meta/packing.cpp
  csrc/ops/conv_int8.cpp
  csrc/ops/embedding.cpp
  csrc/ops/library.cpp
  csrc/ops/packed_header.cpp
  csrc/ops/packing.cpp
)

set(TORCHQAT_CUDA_SOURCES
)

set(TORCHQAT_PUBLIC_HEADERS
  csrc/include/torchqat/conv_int8.h
  csrc/include/torchqat/embedding.h
  csrc/include/torchqat/export.h
  csrc/include/torchqat/packing.h
  csrc/include/torchqat/torchqat.h
)

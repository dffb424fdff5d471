# A kernel file's suffix names the instruction set it may use; this is the only place where ISA flags are given.
set(TORCHQAT_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2)
set(TORCHQAT_ISA_FLAGS_avxvnni ${TORCHQAT_ISA_FLAGS_avx2} -mavxvnni)
# gcc 12 warns of its own _mm512_undefined (GCC bug 105593) wherever an AVX-512 intrinsic is inlined.
set(TORCHQAT_ISA_FLAGS_avx512 ${TORCHQAT_ISA_FLAGS_avx2} -Wno-uninitialized -Wno-maybe-uninitialized
    -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
    -mprefer-vector-width=512)
set(TORCHQAT_ISA_FLAGS_avx512vbmi ${TORCHQAT_ISA_FLAGS_avx512} -mavx512vbmi)
set(TORCHQAT_ISA_FLAGS_avx512bf16 ${TORCHQAT_ISA_FLAGS_avx512} -mavx512bf16)
set(TORCHQAT_ISA_FLAGS_amx ${TORCHQAT_ISA_FLAGS_avx512bf16} -mamx-tile -mamx-int8 -mamx-bf16)

function(torchqat_isa_flags)
  foreach(source ${ARGN})
    if(source MATCHES "_(avx2|avxvnni|avx512|avx512bf16|avx512vbmi|amx)\\.cpp$")
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${TORCHQAT_ISA_FLAGS_${CMAKE_MATCH_1}})
    endif()
  endforeach()
endfunction()

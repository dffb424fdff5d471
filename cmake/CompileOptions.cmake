# Options every target of the project shares. FP contraction is off everywhere: a fused multiply-add rounds once
# where the numerics round twice, and one path would differ from another.
function(torchqat_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math)
  if(TORCHQAT_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

# torch's at::parallel_for is a template in its headers: without OpenMP switched on where it is compiled, it runs serially
# and says nothing. Compiling only: the threads are those of the OpenMP library that libtorch brings, and linking to
# another one beside it would start a second pool.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-fopenmp TORCHQAT_HAS_OPENMP)
function(torchqat_parallel_for target)
  if(TORCHQAT_HAS_OPENMP)
    target_compile_options(${target} PRIVATE -fopenmp)
  endif()
endfunction()

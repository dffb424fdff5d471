# Options every target of the project shares. FP contraction is off everywhere: a fused multiply-add rounds once
# where the numerics round twice, and one path would differ from another.
function(torchqat_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off -fno-math-errno -fno-trapping-math)
  if(TORCHQAT_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

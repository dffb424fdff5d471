// Gradients of what a block shares, summed over its elements by the kernels of cpu/kernels/learned.h, by threads.
#pragma once
#include "cpu/block_view.h"
#include "cpu/kernels/learned.h"

namespace torchqat::cpu {

// Sums per scale entry into ds and dz (null where not wanted), in an order that the number of threads does not change.
void sum_blocks(LearnedArgs args, void (*kernel)(const LearnedArgs&, int64_t, int64_t), double* ds, double* dz);

}  // namespace torchqat::cpu

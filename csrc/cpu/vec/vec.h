// Vec: the float lanes of the instruction set this file is compiled for, with the lane operations that numerics/ uses.
// One generic kernel source over Vec, compiled once per ISA, gives the same bits on every path.
#pragma once
#include <cstring>

#include "cpu/vec/half_types.h"
#include "numerics/rounding.h"

#if defined(__AVX512F__)
#include "cpu/vec/vec_avx512.h"
#elif defined(__AVX2__)
#include "cpu/vec/vec_avx2.h"
#else
#include "cpu/vec/vec_scalar.h"
#endif
#include "cpu/vec/vec_double.h"
#include "cpu/vec/vec_bits.h"

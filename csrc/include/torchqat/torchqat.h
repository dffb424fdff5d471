// torchqat's C++ interface: every op as a function of the same name in namespace torchqat, with autograd.
// Linking the CMake target torchqat::torchqat registers the ops; nothing need be called.
#pragma once

#include <torchqat/batch_norm.h>
#include <torchqat/conv_int8.h>
#include <torchqat/dorefa.h>
#include <torchqat/embedding.h>
#include <torchqat/fake_quantize.h>
#include <torchqat/float_grid.h>
#include <torchqat/forms.h>
#include <torchqat/histogram.h>
#include <torchqat/learned.h>
#include <torchqat/linear_block_float.h>
#include <torchqat/linear_float8.h>
#include <torchqat/linear_grouped.h>
#include <torchqat/linear_int8.h>
#include <torchqat/linear_int8_codes.h>
#include <torchqat/low_bit.h>
#include <torchqat/observed.h>
#include <torchqat/packing.h>
#include <torchqat/qat_conv_int8.h>
#include <torchqat/qparams.h>
#include <torchqat/quantize.h>
#include <torchqat/stochastic.h>

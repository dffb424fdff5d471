// What every op of a block structure checks and derives: scale shapes, memory order, dtypes. Symbolic sizes throughout,
// so that CPU, CUDA and Meta share it.
#pragma once
#include "ops/torch_headers.h"

#include <c10/core/SymIntArrayRef.h>

namespace torchqat {

using SymSizes = c10::SmallVector<c10::SymInt, 5>;
using DimOrder = c10::SmallVector<int64_t, 5>;

// "float32", as Python says it.
inline std::string dtype_name(at::ScalarType type) { return std::string(c10::getDtypeNames(type).first); }

// ceil(dim / block) per dimension; the whole tensor ([]) gives no dimension. Checks block_size against the input's rank.
SymSizes scale_shape(const char* op, c10::SymIntArrayRef input_sizes, c10::SymIntArrayRef block_size);

void check_floating(const char* op, const char* argument, const at::Tensor& tensor);
// Of a backward op: the input's shape and dtype.
void check_like_input(const char* op, const at::Tensor& grad, const at::Tensor& input);
void check_grid(const char* op, int64_t quant_min, int64_t quant_max);

// scale: a floating tensor of scale_shape (dimensions of size 1 may be left out); one element of any rank for [].
// zero_point: absent, or an integer tensor (floating too where allowed) with as many entries in the same order.
void check_qparams(const char* op, const at::Tensor& input, const at::Tensor& scale,
                   const std::optional<at::Tensor>& zero_point, c10::SymIntArrayRef block_size,
                   bool floating_zero_point = false);

// Dimensions from the outermost to the innermost in memory of a dense tensor; empty where that is 0, 1, 2, ...
DimOrder dim_order(const at::Tensor& dense);

// A new tensor of these sizes whose memory order is `order` (empty: contiguous).
at::Tensor empty_in_order(const at::Tensor& like, at::IntArrayRef order);

// Bytes of a mask of one bit per element.
inline c10::SymInt mask_bytes(const at::Tensor& input) { return (input.sym_numel() + 7) / 8; }

}  // namespace torchqat

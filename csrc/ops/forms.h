// Checks of the integer forms, shared by Meta and the devices.
#pragma once
#include "ops/torch_headers.h"

namespace torchqat {

// A grid as the ops take it, named for messages.
struct GridArgs {
  const char* name;  // "", "a_", "b_" or "output_"
  const at::Tensor& scale;
  const at::Tensor& zero_point;
  int64_t quant_min, quant_max;
};

void check_form_grid(const char* op, const GridArgs& grid);
void check_form_input(const char* op, const char* name, const at::Tensor& input, const GridArgs& grid);
// float32, or the type of the codes of the grid.
at::ScalarType form_output_type(const char* op, const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& zero_point,
                                int64_t quant_min, int64_t quant_max);
void check_add(const at::Tensor& a, const at::Tensor& b);
void check_lookup(const at::Tensor& table, int64_t quant_min, int64_t quant_max);

struct PoolArgs {
  const char* op;
  at::IntArrayRef kernel_size, stride, padding, dilation;
  bool ceil_mode;
};
void check_pool(const PoolArgs& args, const at::Tensor& input);
// [N, C, *spatial']
c10::SymDimVector pool_output_sizes(const PoolArgs& args, const at::Tensor& input);

}  // namespace torchqat

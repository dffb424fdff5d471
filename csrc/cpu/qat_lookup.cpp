// CPU kernels of the training form of element-wise functions: tensors to pointers, threads.
#include "ops/qat_lookup.h"

#include "cpu/block_view.h"
#include "cpu/form_grid.h"
#include "cpu/isa.h"
#include "cpu/kernels/qat_lookup.h"
#include "cpu/output.h"

namespace torchqat::cpu {
namespace {

QatLookupKernels kernels() { return select(&qat_lookup_scalar, &qat_lookup_avx2, &qat_lookup_avx512)(); }

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point,
                                                       int64_t quant_min, int64_t quant_max, const at::Tensor& table) {
  check_qat_lookup(input, scale, zero_point, quant_min, quant_max, table);
  const at::Tensor x = input.is_non_overlapping_and_dense() ? input : input.contiguous(), entries = table.contiguous();
  at::Tensor y = result_like(x), index = at::empty_like(x, x.options().dtype(at::kByte)), mask = result_bytes((x.numel() + 7) / 8);
  QatLookup task;
  task.input = x.const_data_ptr<float>();
  task.grid = form_grid("qat_lookup_int8", {"", scale, zero_point, quant_min, quant_max});
  task.table = entries.const_data_ptr<float>();
  task.out = y.mutable_data_ptr<float>();
  task.index = index.mutable_data_ptr<uint8_t>();
  task.mask = mask.mutable_data_ptr<uint8_t>();
  parallel_elements(x.numel(), [&, run = kernels().forward](int64_t begin, int64_t end) { run(task, begin, end); });
  return {y, index, mask};
}

// For an input that needs no gradient.
at::Tensor lookup(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                  const at::Tensor& table, const at::Tensor& slope) {
  check_slope(slope, quant_min, quant_max);
  return std::get<0>(forward(input, scale, zero_point, quant_min, quant_max, table));
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope) {
  check_qat_lookup_backward(grad, index, mask, slope);
  const at::Tensor codes = index.is_non_overlapping_and_dense() ? index : index.contiguous(), bits = mask.contiguous();
  at::Tensor dx = at::empty_like(codes, grad.options());
  const at::Tensor dy = grad.strides() == dx.strides() ? grad : at::empty_like(dx).copy_(grad), entries = slope.contiguous();
  QatLookupBackward task;
  task.grad = dy.const_data_ptr<float>();
  task.index = codes.const_data_ptr<uint8_t>();
  task.mask = bits.const_data_ptr<uint8_t>();
  // An index that no forward gave finds a 0.
  std::copy_n(entries.const_data_ptr<float>(), entries.numel(), task.slope);
  task.out = dx.mutable_data_ptr<float>();
  parallel_elements(dx.numel(), [&, run = kernels().backward](int64_t begin, int64_t end) { run(task, begin, end); });
  return dx;
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("qat_lookup_int8", &lookup);
  m.impl("_qat_lookup_int8_forward", &forward);
  m.impl("_qat_lookup_int8_backward", &backward);
}

}  // namespace
}  // namespace torchqat::cpu

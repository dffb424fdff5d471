// The training form of element-wise functions on CUDA: by the library's ops and ATen's, which give the same bits.
#include "ops/qat_lookup.h"

#include <limits>

#include "ops/fake_quantize.h"
#include "torchqat/quantize.h"

namespace torchqat::cuda {
namespace {

at::Tensor entries_at(const at::Tensor& table, const at::Tensor& index) {
  return at::empty_like(index, table.options()).copy_(table.index_select(0, index.reshape(-1).to(at::kInt)).view(index.sizes()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point,
                                                       int64_t quant_min, int64_t quant_max, const at::Tensor& table) {
  check_qat_lookup(input, scale, zero_point, quant_min, quant_max, table);
  const at::Tensor x = input.is_non_overlapping_and_dense() ? input : input.contiguous();
  const at::Tensor mask = std::get<1>(fake_quantize_forward(x, scale, zero_point, {}, quant_min, quant_max));
  const at::Tensor codes = quantize(x, scale, zero_point, {}, quant_min, quant_max, quant_min < 0 ? at::kChar : at::kByte);
  const at::Tensor lost = x.isnan();
  const at::Tensor index = (codes.to(at::kInt) - quant_min).to(at::kByte).masked_fill_(lost, 0);
  return {entries_at(table, index).masked_fill_(lost, std::numeric_limits<double>::quiet_NaN()), index, mask};
}

at::Tensor lookup(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max,
                  const at::Tensor& table, const at::Tensor& slope) {
  check_slope(slope, quant_min, quant_max);
  return std::get<0>(forward(input, scale, zero_point, quant_min, quant_max, table));
}

at::Tensor backward(const at::Tensor& grad, const at::Tensor& index, const at::Tensor& mask, const at::Tensor& slope) {
  check_qat_lookup_backward(grad, index, mask, slope);
  const at::Tensor codes = index.is_non_overlapping_and_dense() ? index : index.contiguous();
  const at::Tensor dx = at::empty_like(codes, grad.options()).copy_(grad).mul_(entries_at(slope, codes));
  // The mask lies in the memory's order.
  const at::Tensor flat = dx.as_strided({dx.numel()}, {1});
  flat.copy_(fake_quantize_backward(flat, mask, {}));
  return dx;
}

TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("qat_lookup_int8", &lookup);
  m.impl("_qat_lookup_int8_forward", &forward);
  m.impl("_qat_lookup_int8_backward", &backward);
}

}  // namespace
}  // namespace torchqat::cuda

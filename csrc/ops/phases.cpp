// _interleave_phases: schemas, checks, C++ entry, and the form made of ATen's ops for devices without a kernel.
#include "ops/phases.h"

#include "ops/call.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("_interleave_phases(Tensor input, int[] stride, int[] padding, SymInt[] lengths) -> Tensor");
  m.def("_interleave_phases_backward(Tensor grad, int[] stride, int[] padding, SymInt[] sizes) -> Tensor");
}

int64_t check_interleave_phases(const char* op, const at::Tensor& tensor, at::IntArrayRef stride, at::IntArrayRef padding,
                                c10::SymIntArrayRef lengths) {
  const auto dims = tensor.dim() - 2;
  TORCH_CHECK_VALUE(dims >= 1 && dims <= 3, op, ": input must have 1 to 3 spatial dimensions, got shape ", tensor.sym_sizes());
  const auto spatial = static_cast<size_t>(dims);
  TORCH_CHECK_VALUE(stride.size() == spatial && padding.size() == spatial && lengths.size() == spatial, op,
                    ": stride, padding and sizes must have ", dims, " entries, got ", stride.size(), ", ", padding.size(), " and ",
                    lengths.size());
  int64_t phases = 1;
  for (size_t d = 0; d < spatial; ++d) {
    TORCH_CHECK_VALUE(stride[d] >= 1 && padding[d] >= 0, op, ": stride must be positive and padding not negative, got ", stride, " and ",
                      padding);
    phases *= stride[d];
  }
  return phases;
}

c10::SymDimVector interleaved_sizes(const at::Tensor& input, int64_t phases, c10::SymIntArrayRef lengths) {
  TORCH_CHECK_VALUE(input.sym_size(1) % phases == 0, "_interleave_phases: channels must be a multiple of the ", phases, " phases, got ",
                    input.sym_size(1));
  c10::SymDimVector sizes{input.sym_size(0), input.sym_size(1) / phases};
  sizes.append(lengths.begin(), lengths.end());
  return sizes;
}

c10::SymDimVector phase_sizes(const at::Tensor& grad, int64_t phases, c10::SymIntArrayRef sizes) {
  c10::SymDimVector all{grad.sym_size(0), grad.sym_size(1) * phases};
  all.append(sizes.begin(), sizes.end());
  return all;
}

at::Tensor interleave_phases(const at::Tensor& input, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef lengths) {
  static const auto op = find_op<decltype(interleave_phases)>("torchqat::_interleave_phases");
  return op.call(input, stride, padding, lengths);
}

at::Tensor interleave_phases_backward(const at::Tensor& grad, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef sizes) {
  static const auto op = find_op<decltype(interleave_phases_backward)>("torchqat::_interleave_phases_backward");
  return op.call(grad, stride, padding, sizes);
}

namespace {

at::Tensor interleave_any(const at::Tensor& input, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef lengths) {
  const int64_t phases = check_interleave_phases("_interleave_phases", input, stride, padding, lengths), dims = input.dim() - 2;
  const auto sizes = interleaved_sizes(input, phases, lengths);
  c10::SymDimVector apart{sizes[0], sizes[1]}, whole{sizes[0], sizes[1]};
  std::vector<int64_t> order{0, 1};
  for (int64_t step : stride) apart.push_back(step);
  for (int64_t d = 0; d < dims; ++d) {
    apart.push_back(input.sym_size(2 + d));
    whole.push_back(input.sym_size(2 + d) * stride[static_cast<size_t>(d)]);
    order.push_back(2 + dims + d);
    order.push_back(2 + d);
  }
  at::Tensor y = input.reshape_symint(apart).permute(order).reshape_symint(whole);
  for (size_t d = 0; d < lengths.size(); ++d) y = y.narrow_symint(static_cast<int64_t>(2 + d), padding[d], lengths[d]);
  return y.clone(input.suggest_memory_format());
}

at::Tensor interleave_any_backward(const at::Tensor& grad, at::IntArrayRef stride, at::IntArrayRef padding, c10::SymIntArrayRef sizes) {
  const int64_t phases = check_interleave_phases("_interleave_phases_backward", grad, stride, padding, sizes), dims = grad.dim() - 2;
  c10::SymDimVector pad, apart{grad.sym_size(0), grad.sym_size(1)};
  std::vector<int64_t> order{0, 1};
  for (int64_t d = dims - 1; d >= 0; --d) {
    const auto at = static_cast<size_t>(d);
    pad.push_back(padding[at]);
    pad.push_back(sizes[at] * stride[at] - padding[at] - grad.sym_size(2 + d));
  }
  for (int64_t d = 0; d < dims; ++d) {
    apart.push_back(sizes[static_cast<size_t>(d)]);
    apart.push_back(stride[static_cast<size_t>(d)]);
    order.push_back(3 + 2 * d);
  }
  for (int64_t d = 0; d < dims; ++d) order.push_back(2 + 2 * d);
  const at::Tensor parts = at::constant_pad_nd_symint(grad, pad).reshape_symint(apart).permute(order);
  return parts.reshape_symint(phase_sizes(grad, phases, sizes)).clone(grad.suggest_memory_format());
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CompositeExplicitAutograd, m) {
  m.impl("_interleave_phases", &interleave_any);
  m.impl("_interleave_phases_backward", &interleave_any_backward);
}

}  // namespace torchqat

// linear_block_float on CUDA: on block-scaled tensor cores (capability 10 and above) through torch's _scaled_mm, once they have
// given the right product of a small problem; else the float product.
#include "ops/linear_block_float.h"

#include <c10/cuda/CUDAGraphsC10Utils.h>

#include "cuda/device.h"
#include "cuda/kernels/block_float.h"
#include "cuda/kernels/float8.h"
#include "ops/float_grid.h"
#include "ops/linear_float8.h"
#include "ops/linear_int8.h"
#include "torchqat/qparams.h"

namespace torchqat::cuda {
namespace {

using numerics::FloatFormat;

// codes, block scales as the tensor cores read them, and the tensor's scale: of nvfp4, else 1.
using Operand = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Operand operand(const at::Tensor& values, FloatFormat format, const OptionalTensor& unrounded) {
  const OnDevice device(values);
  const bool halves = format == FloatFormat::e2m1;
  const at::Tensor x = values.detach().contiguous();
  const int64_t columns = x.size(-1), rows = row_count(x).expect_int();
  const int64_t blocks = columns / (halves ? 16 : 32);
  const auto bytes = x.options().dtype(at::kByte);
  at::Tensor tensor_scale = at::ones({1}, x.options().dtype(at::kFloat));
  if (halves) {
    const at::Tensor& whole = unrounded.has_value() ? *unrounded : x;
    tensor_scale = in_type(std::get<0>(choose_qparams(whole.detach(), {}, -2688, 2688, /*symmetric=*/true)), at::kFloat).view({1});
  }
  at::Tensor codes = at::empty({rows, halves ? columns / 2 : columns}, bytes);
  at::Tensor scale = at::zeros({(rows + 127) / 128 * 128 * ((blocks + 3) / 4 * 4)}, bytes);
  BlockFloatArgs a;
  a.input = x.const_data_ptr();
  a.type = float_type(x.scalar_type());
  a.rows = rows;
  a.columns = columns;
  a.format = format;
  a.tensor_scale = tensor_scale.const_data_ptr<float>();
  a.codes = codes.mutable_data_ptr<uint8_t>();
  a.scale = scale.mutable_data_ptr<uint8_t>();
  block_float_codes(a, device.stream());
  return {codes, scale, tensor_scale};
}

at::ScalarType code_dtype(FloatFormat format) { return format == FloatFormat::e2m1 ? at::kFloat4_e2m1fn_x2 : float8_type(format); }

at::Tensor multiply(const at::Tensor& input, FloatFormat format, const OptionalTensor& unrounded, const at::Tensor& weight,
                    FloatFormat weight_format, const OptionalTensor& bias, at::ScalarType dtype) {
  const OnDevice device(input);
  const auto [codes, scale, whole] = operand(input, format, unrounded);
  const auto [weight_codes, weight_scale, weight_whole] = operand(weight, weight_format, std::nullopt);
  const auto scale_type = format == FloatFormat::e2m1 ? at::kFloat8_e4m3fn : at::kFloat8_e8m0fnu;
  const at::Tensor sums = at::_scaled_mm(codes.view(code_dtype(format)), weight_codes.view(code_dtype(weight_format)).t(),
                                         scale.view(scale_type), weight_scale.view(scale_type), std::nullopt, std::nullopt, at::kFloat);
  const at::Tensor float_bias = bias.has_value() ? in_type(bias->detach(), at::kFloat) : at::Tensor();
  at::Tensor y = at::empty(sums.sizes(), sums.options().dtype(dtype));
  Float8Finish f;
  f.m = sums.size(0);
  f.n = sums.size(1);
  f.sums = sums.const_data_ptr<float>();
  f.row_scale = whole.const_data_ptr<float>();
  f.column_scale = weight_whole.const_data_ptr<float>();
  if (float_bias.defined()) f.bias = float_bias.const_data_ptr<float>();
  f.out = y.mutable_data_ptr();
  f.out_type = float_type(dtype);
  float8_finish(f, device.stream());
  return y;
}

// Values of blocks whose scales differ by up to 2^6, so that a scale in a foreign place shows.
at::Tensor sample(int64_t rows, int64_t columns, FloatFormat format, const at::TensorOptions& options) {
  const bool halves = format == FloatFormat::e2m1;
  const at::Tensor at = at::arange(rows * columns, options.dtype(at::kDouble));
  const at::Tensor block = at.div(halves ? 16 : 32).floor();
  const at::Tensor x = at.mul(0.7390851).sin().mul(block.mul(1.9423).sin().mul(3).exp2()).to(at::kFloat).view({rows, columns});
  const char* name = halves ? "nvfp4" : format == FloatFormat::e5m2 ? "mxfp8_e5m2" : "mxfp8_e4m3";
  return fake_quantize_float_symint(x, std::nullopt, {}, name, "floor");
}

// Whether the hardware's product of a small problem is that of its values, up to the rounding of sums; why not, else. This waits.
std::optional<std::string> fault(FloatFormat format, FloatFormat weight_format, const at::TensorOptions& options) {
  try {
    const at::Tensor a = sample(144, 320, format, options), b = sample(272, 320, weight_format, options);
    const at::Tensor found = multiply(a, format, std::nullopt, b, weight_format, std::nullopt, at::kFloat).to(at::kDouble);
    const at::Tensor x = a.to(at::kDouble), w = b.to(at::kDouble);
    const at::Tensor off = found.sub(at::mm(x, w.t())).abs(), most = at::mm(x.abs(), w.abs().t());
    if (off.le(most.mul(0x1p-10)).all().item<bool>()) return std::nullopt;
    return "their product differs from that of the same values in float64";
  } catch (const c10::Error& error) {
    return std::string("their product failed: ") + error.what_without_backtrace();
  } catch (const std::exception& error) {
    return std::string("their product failed: ") + error.what();
  }
}

// The answer for a device and a pair of formats, found at the first use. None is found within a CUDA graph's capture, which cannot wait.
bool trusted(const at::Tensor& input, FloatFormat format, FloatFormat weight_format) {
  enum : int8_t { unknown, yes, no };
  static std::array<std::array<std::atomic<int8_t>, 4>, 64> known{};
  static std::mutex asking;
  const int device = std::max<int>(0, input.device().index());
  if (device >= static_cast<int>(known.size())) return false;
  const int pair = format == FloatFormat::e2m1 ? 3 : format == FloatFormat::e5m2 ? 2 : weight_format == FloatFormat::e5m2 ? 1 : 0;
  std::atomic<int8_t>& answer = known[static_cast<size_t>(device)][static_cast<size_t>(pair)];
  if (answer.load() == unknown) {
    if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) return false;
    const std::scoped_lock lock(asking);
    if (answer.load() == unknown) {
      const auto why = fault(format, weight_format, input.options());
      answer.store(why.has_value() ? no : yes);
      if (why.has_value()) {
        TORCH_WARN("torchqat: block-scaled tensor cores (capability ", compute_capability() / 10, ".", compute_capability() % 10,
                   ") are not used for ", format == FloatFormat::e2m1 ? "NVFP4" : "MX", " layers, which compute in float instead: ", *why);
      }
    }
  }
  return answer.load() == yes;
}

bool layer_type(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf; }

// Sizes in whole blocks and whole 16 bytes, and not e5m2 twice.
bool has_product(const at::Tensor& input, FloatFormat format, const at::Tensor& weight, FloatFormat weight_format, at::ScalarType dtype) {
  return compute_capability() >= 100 && input.numel() > 0 && weight.numel() > 0 && weight.size(1) % 32 == 0 &&
         weight.size(0) % 16 == 0 && layer_type(input.scalar_type()) && layer_type(weight.scalar_type()) && layer_type(dtype) &&
         !(format == FloatFormat::e5m2 && weight_format == FloatFormat::e5m2) && trusted(input, format, weight_format);
}

at::Tensor linear_block_float_op(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias,
                                 std::string_view input_format, std::string_view weight_format, const OptionalTensor& unrounded,
                                 std::optional<at::ScalarType> dtype) {
  const auto sizes = check_linear_block_float(input, weight, bias, input_format, weight_format, unrounded);
  const OnDevice device(input);
  const auto format = carrier_format("input_format", input_format), other = carrier_format("weight_format", weight_format);
  const auto type = dtype.value_or(input.scalar_type());
  if (!has_product(input, format, weight, other, type)) return linear_of_values(input, weight, bias, type);
  return multiply(input, format, unrounded, weight, other, bias, type).view_symint(sizes);
}

Operand operand_op(const at::Tensor& values, std::string_view format, const OptionalTensor& unrounded) {
  const auto carrier = carrier_format("format", format);
  const int64_t block = carrier == FloatFormat::e2m1 ? 16 : 32;
  TORCH_CHECK_VALUE(layer_type(values.scalar_type()) && values.dim() >= 1 && values.size(-1) % block == 0,
                    "_block_float_operand: values must be float32, bfloat16 or float16 in whole blocks of ", block, ", got ",
                    values.scalar_type(), " of shape ", values.sizes());
  return operand(values, carrier, unrounded);
}

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  m.def("_block_float_operand(Tensor values, str format, Tensor? unrounded=None) -> (Tensor codes, Tensor scale, Tensor tensor_scale)");
}
TORCH_LIBRARY_IMPL(torchqat, CUDA, m) {
  m.impl("linear_block_float", &linear_block_float_op);
  m.impl("_block_float_operand", &operand_op);
}

}  // namespace
}  // namespace torchqat::cuda

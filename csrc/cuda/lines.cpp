// Codes kept by training layers, and their masks.
#include "ops/torch_headers.h"

#include "cuda/lines.h"

#include "cuda/kernels/int8_gemm.h"

namespace torchqat::cuda {

WeightCodes quantize_weight_lines(const at::Tensor& weight, const at::Tensor& scale, int64_t group, int64_t quant_min,
                                  int64_t quant_max, Stream stream) {
  const at::Tensor w = (weight.scalar_type() == at::kDouble ? weight.to(at::kFloat) : weight).contiguous();
  const int64_t rows = w.size(0), columns = rows == 0 ? 0 : w.numel() / rows;
  WeightCodes out{at::empty(w.sizes(), w.options().dtype(at::kChar)),
                  at::empty({rows, (columns + 7) / 8}, w.options().dtype(at::kByte))};
  QuantizeLines q;
  q.input = w.const_data_ptr();
  q.type = float_type(w.scalar_type());
  q.rows = rows;
  q.columns = columns;
  q.scale = scale.const_data_ptr<float>();
  q.scale_stride = rows == 0 ? 0 : scale.numel() / rows;
  q.group = group;
  q.quant_min = static_cast<int32_t>(quant_min);
  q.quant_max = static_cast<int32_t>(quant_max);
  q.codes = reinterpret_cast<uint8_t*>(out.codes.mutable_data_ptr<int8_t>());
  q.mask = out.mask.mutable_data_ptr<uint8_t>();
  quantize_lines(q, stream);
  return out;
}

at::Tensor apply_line_mask(const at::Tensor& values, const std::optional<at::Tensor>& mask, int64_t rows, at::ScalarType type,
                           Stream stream) {
  if (!mask.has_value() || values.numel() == 0) return values.to(type);
  const at::Tensor dense_values = dense(values), bits = mask->contiguous();
  at::Tensor out = at::empty_like(dense_values, dense_values.options().dtype(type));
  mask_rows(dense_values.const_data_ptr(), float_type(dense_values.scalar_type()), bits.const_data_ptr<uint8_t>(), rows,
            dense_values.numel() / rows, out.mutable_data_ptr(), float_type(type), stream);
  return out;
}

}  // namespace torchqat::cuda

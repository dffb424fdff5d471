// The input of a deployed integer layer: grids opened, rows quantised, and the layer on int8 weights.
#include "cpu/layer_input.h"

#include <cstring>

#include "cpu/isa.h"
#include "cpu/kernels/panels.h"
#include "cpu/thread_memory.h"

namespace torchqat {
namespace {

// More than this is not kept by the thread.
constexpr int64_t kKept = int64_t{8} << 20;
constexpr int64_t kPart = 32768;  // values that one thread quantises at least

int64_t round_up64(int64_t size) { return (size + 63) / 64 * 64; }

uint8_t* kept_memory(int64_t bytes) {
  static thread_local cpu::ThreadMemory memory;
  return memory.at_least(bytes, "integer layer");
}

}  // namespace

bool all_positive(const float* values, int64_t count) {
  // On raw bits, so that the loop is one of integers: those of positive finite numbers lie in [1, bits of inf).
  constexpr uint32_t infinity = 0x7f800000u;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bad |= bits - 1 >= infinity - 1 ? 1u : 0u;
  }
  return bad == 0;
}

FloatView view_floats(const std::optional<at::Tensor>& values) {
  FloatView view;
  if (!values.has_value()) return view;
  const bool ready = values->scalar_type() == at::kFloat && values->is_contiguous();
  if (!ready) view.owner = values->detach().to(at::kFloat).contiguous();
  view.data = (ready ? *values : view.owner).const_data_ptr<float>();
  return view;
}

FloatView view_scale(const char* op, const char* name, const at::Tensor& scale) {
  FloatView view = view_floats(scale);
  if (!all_positive(view.data, scale.numel())) read_scale(op, name, scale);  // which says what is wrong with it
  return view;
}

std::tuple<at::Tensor, at::Tensor> whole_tensor_qparams(const at::Tensor& input, int64_t quant_min, int64_t quant_max,
                                                        bool symmetric) {
  static const auto choose = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("torchqat::choose_qparams", "")
                                 .typed<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, c10::SymIntArrayRef, int64_t,
                                                                           int64_t, bool)>();
  return choose.call(input, c10::SymIntArrayRef(), quant_min, quant_max, symmetric);
}

RowMemory::RowMemory(int64_t bytes) {
  if (bytes <= kKept) {
    data_ = kept_memory(bytes);
    return;
  }
  own_ = at::empty({bytes + 63}, at::kByte);
  data_ = reinterpret_cast<uint8_t*>(round_up64(reinterpret_cast<intptr_t>(own_.mutable_data_ptr<uint8_t>())));
}

void LayerInput::open(const at::Tensor& input, int64_t k, int64_t quant_min, int64_t quant_max) {
  input_ = input.contiguous();
  data_ = input_.const_data_ptr();
  is_codes_ = !input.is_floating_point();
  is_signed_ = input.scalar_type() == at::kChar;
  if (!is_codes_) type_ = float_type(input.scalar_type());
  k_ = k;
  k_padded_ = cpu::padded64(k);
  rows_ = 1;
  for (int64_t d = 0; d + 1 < input.dim(); ++d) rows_ *= input.size(d);
  shift_ = quant_min < 0 ? 128 : 0;
  quant_min_ = quant_min + shift_;
  quant_max_ = quant_max + shift_;
}

LayerInput::LayerInput(const char* op, const at::Tensor& input, int64_t k, const at::Tensor& scale, const at::Tensor& zero_point,
                       int64_t quant_min, int64_t quant_max) {
  open(input, k, quant_min, quant_max);
  if (scale.numel() == 1 && scale.scalar_type() == at::kFloat && zero_point.scalar_type() == at::kInt) {
    one_scale_ = *scale.const_data_ptr<float>();
    one_zero_point_ = *zero_point.const_data_ptr<int32_t>();
    if (all_positive(&one_scale_, 1) && quant_min <= one_zero_point_ && one_zero_point_ <= quant_max) {
      one_zero_point_ += static_cast<int32_t>(shift_);
      scale_ = &one_scale_;
      zero_point_ = &one_zero_point_;
      return;
    }
  }
  given_ = read_input_qparams(op, scale, zero_point, quant_min, quant_max);
  scale_ = given_.scale.const_data_ptr<float>();
  zero_point_ = given_.zero_point.const_data_ptr<int32_t>();
  stride_ = given_.stride;
}

LayerInput::LayerInput(const at::Tensor& input, int64_t k, int64_t quant_min, int64_t quant_max, bool symmetric)
    : found_(true), symmetric_(symmetric) {
  open(input, k, quant_min, quant_max);
}

int64_t LayerInput::bytes(int64_t rows) const { return rows * (k_padded_ + 4 + 4 + 1) + 256; }

void LayerInput::take_codes(int64_t begin, int64_t end, uint8_t* out) const {
  const uint8_t flip = is_signed_ ? 0x80 : 0;
  for (int64_t r = begin; r < end; ++r, out += k_padded_) {
    const uint8_t* row = static_cast<const uint8_t*>(data_) + r * k_;
    for (int64_t k = 0; k < k_; ++k) out[k] = row[k] ^ flip;
    for (int64_t k = k_; k < k_padded_; ++k) out[k] = 0;
  }
}

LayerInput::Rows LayerInput::code(int64_t begin, int64_t end, uint8_t* memory, bool parallel) const {
  const int64_t rows = end - begin;
  uint8_t* codes = memory;
  auto* found_scale = reinterpret_cast<float*>(codes + rows * k_padded_);
  auto* found_zero_point = reinterpret_cast<int32_t*>(found_scale + rows);
  auto* nan = reinterpret_cast<uint8_t*>(found_zero_point + rows);
  Rows out{codes, found_ ? found_scale : scale_ + begin * stride_, found_ ? found_zero_point : zero_point_ + begin * stride_, nan};
  const auto split = [&](const auto& part) {
    if (!parallel) return part(0, rows);
    at::parallel_for(0, rows, std::max<int64_t>(1, kPart / std::max<int64_t>(k_, 1)), part);
  };
  if (is_codes_) {
    out.nan = nullptr;
    if (!is_signed_ && k_ == k_padded_) {
      out.codes = static_cast<const uint8_t*>(data_) + begin * k_;
    } else {
      split([&](int64_t first, int64_t last) { take_codes(begin + first, begin + last, codes + first * k_padded_); });
    }
    return out;
  }
  cpu::QuantizeRows q;
  const int64_t item = type_ == cpu::FloatType::float32 ? 4 : 2;
  q.input = static_cast<const uint8_t*>(data_) + begin * k_ * item;
  q.type = type_;
  q.columns = q.ld_input = k_;
  if (found_) {
    q.found_scale = found_scale;
    q.found_zero_point = found_zero_point;
    q.symmetric = symmetric_;
    q.shift = static_cast<int32_t>(shift_);
  } else {
    q.scale = out.scale;
    q.zero_point = out.zero_point;
    q.stride = stride_;
  }
  q.quant_min = static_cast<float>(quant_min_);
  q.quant_max = static_cast<float>(quant_max_);
  q.codes = codes;
  q.ld_codes = k_padded_;
  q.nan_rows = nan;
  const auto kernel =
      cpu::select<cpu::QuantizeRowsFn>(cpu::quantize_rows_scalar, cpu::quantize_rows_avx2, cpu::quantize_rows_avx512);
  split([&](int64_t first, int64_t last) { kernel(q, first, last); });
  return out;
}

at::Tensor run_linear_int8(const LayerInput& input, at::IntArrayRef sizes, const Int8Weight& weight, const float* weight_scale,
                           const std::optional<at::Tensor>& bias, at::ScalarType dtype, const CodesGrid* grid) {
  at::Tensor y = at::empty(sizes, at::TensorOptions().dtype(grid == nullptr ? at::kFloat : at::kByte));
  const FloatView float_bias = view_floats(bias);
  cpu::GemmU8S8 g;
  g.m = input.rows();
  g.n = weight.n;
  g.k_padded = g.lda = weight.k_padded;
  g.panels = weight.panels;
  g.column_sums = weight.column_sums;
  g.a_stride = input.stride();
  g.b_scale = weight_scale;
  g.b_stride = 1;
  g.bias = float_bias.data;
  if (grid != nullptr) {
    g.output = cpu::GemmOutput::codes;
    g.out_scale = grid->scale;
    g.out_zero_point = grid->zero_point;
    g.out_min = grid->quant_min;
    g.out_max = grid->quant_max;
    g.relu = grid->relu;
  }
  g.ldo = weight.n;
  const auto kernel = cpu::select<cpu::GemmU8S8Fn>(cpu::gemm_u8s8_scalar, cpu::gemm_u8s8_avx2, cpu::gemm_u8s8_avxvnni, cpu::gemm_u8s8_avx512,
                                                   cpu::gemm_u8s8_amx);
  auto* out = static_cast<uint8_t*>(y.mutable_data_ptr());
  const int64_t row_bytes = weight.n * (grid == nullptr ? 4 : 1), panels = cpu::padded64(weight.n) / cpu::kPanelColumns;
  // Rows from `first` on.
  const auto set_rows = [&](const LayerInput::Rows& rows, int64_t first) {
    g.a = rows.codes;
    g.a_scale = rows.scale;
    g.a_zero_point = rows.zero_point;
    g.nan_rows = rows.nan;
    g.out = out + first * row_bytes;
  };
  if (at::get_num_threads() == 1) {
    // Each block of rows is multiplied while its codes are in the cache.
    for_each_block(g.m, panels, g.k_padded, [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) {
      const RowMemory memory(input.bytes(r1 - r0));
      set_rows(input.code(r0, r1, memory.data(), false), r0);
      kernel(g, 0, r1 - r0, p0, p1);
    });
  } else if (g.m > 0) {
    const RowMemory memory(input.bytes(g.m));
    set_rows(input.code(0, g.m, memory.data(), true), 0);
    for_each_block(g.m, panels, g.k_padded,
                   [&](int64_t r0, int64_t r1, int64_t p0, int64_t p1) { kernel(g, r0, r1, p0, p1); });
  }
  return dtype == at::kFloat || grid != nullptr ? y : y.to(dtype);
}

}  // namespace torchqat

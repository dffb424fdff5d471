// _run_layers: deployed layers one after another in one call, for eager mode, where Python between two small layers takes longer than
// the layers. It computes nothing: every step is one of the public ops, called as the layer's own forward calls it (autograd,
// autocast and every device as there). Python's nn/quantized/_program.py writes the programs; the order of Kind is its order.
#include "ops/call.h"
#include "torchqat/conv_int8.h"
#include "torchqat/forms.h"
#include "torchqat/linear_grouped.h"
#include "torchqat/linear_int8.h"
#include "torchqat/linear_int8_codes.h"

namespace torchqat {

TORCH_LIBRARY_FRAGMENT(torchqat, m) {
  // program: int64: how many values there are (the input is value 0), then the steps: kind, value made, what it reads and its arguments.
  m.def("_run_layers(Tensor input, Tensor[] held, Tensor program) -> Tensor");
}

namespace {

enum Kind : int64_t {
  conv, linear, linear_dynamic, linear_grouped, linear_grouped_dynamic, linear_weight_only,
  add, avg_pool, max_pool, lookup, flatten, relu, gelu, kinds
};

using Optional = std::optional<at::Tensor>;

// The words of a program, read in order; refuses to read beyond it.
class Reader {
 public:
  Reader(const at::Tensor& program, at::TensorList held)
      : next_(program.const_data_ptr<int64_t>()), end_(next_ + program.numel()), held_(held) {
    const int64_t values = word();
    TORCH_CHECK_VALUE(values >= 1 && values <= program.numel() + 1, "_run_layers: program must begin with the number of its values, got ",
                      values);
    values_.resize(static_cast<size_t>(values));
  }

  at::Tensor& first() { return values_[0]; }

  bool done() const { return next_ == end_; }
  int64_t word() {
    TORCH_CHECK_VALUE(next_ < end_, "_run_layers: program must hold whole steps, got one that is cut short");
    return *next_++;
  }
  bool flag() { return word() != 0; }
  at::IntArrayRef list() {
    const int64_t size = word();
    TORCH_CHECK_VALUE(size >= 0 && size <= end_ - next_, "_run_layers: program must hold whole lists, got one of ", size, " entries");
    next_ += size;
    return {next_ - size, static_cast<size_t>(size)};
  }
  const at::Tensor& tensor() { return held_[static_cast<size_t>(within(word(), static_cast<int64_t>(held_.size())))]; }
  Optional optional() {
    if (next_ < end_ && *next_ == -1) {
      ++next_;
      return std::nullopt;
    }
    return tensor();
  }
  at::Tensor& value() { return values_[static_cast<size_t>(within(word(), static_cast<int64_t>(values_.size())))]; }
  // A value that a step reads; let go of where nobody reads it again (the second word).
  at::Tensor read() {
    at::Tensor& held = value();
    TORCH_CHECK_VALUE(held.defined(), "_run_layers: program must make a value before it is read");
    return flag() ? std::move(held) : held;
  }

 private:
  static int64_t within(int64_t index, int64_t size) {
    TORCH_CHECK_VALUE(index >= 0 && index < size, "_run_layers: program must name one of ", size, " tensors, got ", index);
    return index;
  }

  const int64_t* next_;
  const int64_t* end_;
  at::TensorList held_;
  std::vector<at::Tensor> values_;
};

struct Grid {
  Optional scale, zero_point;
  int64_t quant_min, quant_max;
};

Grid output_grid(Reader& r) {
  Grid g;
  g.scale = r.optional();
  g.zero_point = r.optional();
  g.quant_min = r.word();
  g.quant_max = r.word();
  return g;
}

// What every integer layer reads first.
struct Weights {
  const at::Tensor& packed;
  const at::Tensor& scale;
  Optional bias;

  explicit Weights(Reader& r) : packed(r.tensor()), scale(r.tensor()), bias(r.optional()) {}
};

at::Tensor run_conv(Reader& r, at::Tensor x) {
  const Weights w(r);
  const at::Tensor &scale = r.tensor(), &zero_point = r.tensor();
  const int64_t low = r.word(), high = r.word();
  const at::IntArrayRef kernel = r.list(), stride = r.list(), padding = r.list(), dilation = r.list();
  const int64_t groups = r.word();
  const bool clip = r.flag();
  const Grid out = output_grid(r);
  const bool single = x.dim() == static_cast<int64_t>(kernel.size()) + 1;
  if (single) x = x.unsqueeze(0);
  const at::Tensor y = out.scale.has_value() && out.zero_point.has_value()
                           ? conv_int8_codes(x, w.packed, w.scale, w.bias, scale, zero_point, low, high, kernel, stride, padding,
                                             dilation, groups, clip, *out.scale, *out.zero_point, out.quant_min, out.quant_max)
                           : conv_int8(x, w.packed, w.scale, w.bias, scale, zero_point, low, high, kernel, stride, padding, dilation,
                                       groups);
  return single ? y.squeeze(0) : y;
}

at::Tensor run_linear(Reader& r, const at::Tensor& x) {
  const Weights w(r);
  const at::Tensor &scale = r.tensor(), &zero_point = r.tensor();
  const int64_t low = r.word(), high = r.word();
  const bool clip = r.flag();
  const Grid out = output_grid(r);
  if (out.scale.has_value() || !x.is_floating_point()) {
    return linear_int8_codes(x, w.packed, w.scale, w.bias, scale, zero_point, low, high, clip, out.scale, out.zero_point,
                             out.quant_min, out.quant_max);
  }
  return linear_int8(x, w.packed, w.scale, w.bias, scale, zero_point, low, high);
}

at::Tensor run_dynamic(Reader& r, const at::Tensor& x, decltype(linear_int8_dynamic)& layer) {
  const Weights w(r);
  const bool per_token = r.flag();
  const int64_t low = r.word(), high = r.word();
  const bool symmetric = r.flag();
  return layer(x, w.packed, w.scale, w.bias, per_token, low, high, symmetric);
}

at::Tensor run_grouped(Reader& r, const at::Tensor& x) {
  const Weights w(r);
  const at::Tensor &scale = r.tensor(), &zero_point = r.tensor();
  const int64_t low = r.word(), high = r.word();
  return linear_grouped_int8(x, w.packed, w.scale, w.bias, scale, zero_point, low, high);
}

// Forms read float32 or codes, and give a float result the type of the (first) input.
at::Tensor form_input(const at::Tensor& x) { return x.is_floating_point() ? x.to(at::kFloat) : x; }
at::Tensor form_output(const at::Tensor& y, at::ScalarType input) {
  return at::isFloatingType(input) && y.is_floating_point() ? y.to(input) : y;
}

at::Tensor run_add(Reader& r, const at::Tensor& a) {
  const at::Tensor b = r.read();
  const at::Tensor &a_scale = r.tensor(), &a_zero_point = r.tensor();
  const int64_t a_low = r.word(), a_high = r.word();
  const at::Tensor &b_scale = r.tensor(), &b_zero_point = r.tensor();
  const int64_t b_low = r.word(), b_high = r.word();
  const bool clip = r.flag();
  const Grid out = output_grid(r);
  return form_output(add_int8(form_input(a), form_input(b), a_scale, a_zero_point, a_low, a_high, b_scale, b_zero_point, b_low, b_high,
                              clip, out.scale, out.zero_point, out.quant_min, out.quant_max),
                     a.scalar_type());
}

at::Tensor run_avg_pool(Reader& r, const at::Tensor& x) {
  const at::Tensor &scale = r.tensor(), &zero_point = r.tensor();
  const int64_t low = r.word(), high = r.word();
  const at::IntArrayRef kernel = r.list(), stride = r.list(), padding = r.list();
  const Grid out = output_grid(r);
  return form_output(avg_pool_int8(form_input(x), scale, zero_point, low, high, kernel, stride, padding, out.scale, out.zero_point,
                                   out.quant_min, out.quant_max),
                     x.scalar_type());
}

at::Tensor run_max_pool(Reader& r, const at::Tensor& x) {
  const at::IntArrayRef kernel = r.list(), stride = r.list(), padding = r.list(), dilation = r.list();
  const bool ceil_mode = r.flag();
  if (x.is_floating_point()) {
    if (kernel.size() == 1) return at::max_pool1d(x, kernel, stride, padding, dilation, ceil_mode);
    if (kernel.size() == 2) return at::max_pool2d(x, kernel, stride, padding, dilation, ceil_mode);
    return at::max_pool3d(x, kernel, stride, padding, dilation, ceil_mode);
  }
  const bool single = x.dim() == static_cast<int64_t>(kernel.size()) + 1;
  const at::Tensor y = max_pool_codes(single ? x.unsqueeze(0) : x, kernel, stride, padding, dilation, ceil_mode);
  return single ? y.squeeze(0) : y;
}

at::Tensor run_lookup(Reader& r, const at::Tensor& x) {
  const at::Tensor &scale = r.tensor(), &zero_point = r.tensor();
  const int64_t low = r.word(), high = r.word();
  return form_output(lookup_int8(form_input(x), scale, zero_point, low, high, r.tensor()), x.scalar_type());
}

at::Tensor run_step(int64_t kind, Reader& r, at::Tensor x) {
  switch (kind) {
    case conv: return run_conv(r, std::move(x));
    case linear: return run_linear(r, x);
    case linear_dynamic: return run_dynamic(r, x, linear_int8_dynamic);
    case linear_grouped: return run_grouped(r, x);
    case linear_grouped_dynamic: return run_dynamic(r, x, linear_grouped_int8_dynamic);
    case linear_weight_only: {
      const at::Tensor &packed = r.tensor(), &scale = r.tensor();
      const Optional zero_point = r.optional(), bias = r.optional();
      return torchqat::linear_weight_only(x, packed, scale, zero_point, bias);
    }
    case add: return run_add(r, x);
    case avg_pool: return run_avg_pool(r, x);
    case max_pool: return run_max_pool(r, x);
    case lookup: return run_lookup(r, x);
    case flatten: {
      const int64_t first = r.word(), last = r.word();
      return at::flatten(x, first, last);
    }
    case relu: return at::relu(x);
    case gelu: return at::gelu(x, r.flag() ? "tanh" : "none");
    default: TORCH_CHECK_VALUE(false, "_run_layers: program must hold kinds from 0 to ", kinds - 1, ", got ", kind);
  }
}

at::Tensor run_layers(const at::Tensor& input, at::TensorList held, const at::Tensor& program) {
  TORCH_CHECK_VALUE(program.dim() == 1 && program.scalar_type() == at::kLong && program.is_cpu() && program.is_contiguous(),
                    "_run_layers: program must be a contiguous int64 tensor [words] on the CPU, got ", program.toString(), " ",
                    program.sizes());
  Reader r(program, held);
  at::Tensor* last = &r.first();
  *last = input;
  while (!r.done()) {
    const int64_t kind = r.word();
    last = &r.value();
    *last = run_step(kind, r, r.read());
  }
  return *last;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchqat, CompositeImplicitAutograd, m) { m.impl("_run_layers", &run_layers); }

}  // namespace torchqat

// Tensors to block structures, and statistics over them with threads.
#include "ops/torch_headers.h"

#include "cpu/block_view.h"

#include "cpu/isa.h"
#include "ops/blocks.h"

namespace torchqat::cpu {

at::Tensor dense(const at::Tensor& input) {
  // A clone has the strides that empty_like, and so the Meta kernels, would give.
  return input.is_non_overlapping_and_dense() ? input : input.clone(at::MemoryFormat::Preserve);
}

Blocks blocks_of(const at::Tensor& dense, at::IntArrayRef block_size) {
  const int64_t dims = dense.dim();
  if (block_size.empty()) {
    const int64_t n = dense.numel(), stride = 0;
    return make_blocks(1, &n, &n, &stride);
  }
  TORCH_CHECK_VALUE(dims <= Blocks::max_dims, "torchqat: at most ", +Blocks::max_dims, " dimensions, got ", dims);
  int64_t logical[Blocks::max_dims];  // strides in the contiguous scale tensor
  int64_t step = 1;
  const auto width = [&](int64_t d) { return block_size[d] == -1 ? std::max<int64_t>(1, dense.size(d)) : block_size[d]; };
  for (int64_t d = dims; d-- > 0;) {
    logical[d] = step;
    step *= (dense.size(d) + width(d) - 1) / width(d);
  }
  const auto order = dim_order(dense);
  int64_t size[Blocks::max_dims], block[Blocks::max_dims], stride[Blocks::max_dims];
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t d = order.empty() ? i : order[i];
    size[i] = dense.size(d);
    block[i] = width(d);
    stride[i] = logical[d];
  }
  return make_blocks(static_cast<int>(dims), size, block, stride);
}

namespace {

template <typename S>
void check_scales(const char* op, const at::Tensor& scale) {
  const S* s = scale.const_data_ptr<S>();
  const int64_t n = scale.numel();
  const auto good = [](S x) { return (x > S(0)) & (x <= std::numeric_limits<S>::max()); };
  bool all = true;
  for (int64_t i = 0; i < n; ++i) all &= good(s[i]);
  if (all) return;
  const int64_t i = std::find_if_not(s, s + n, good) - s;
  TORCH_CHECK_VALUE(false, op, ": scale must be finite and > 0, got ", s[i], " at entry ", i);
}

template <typename Z>
void check_zero_points(const char* op, const at::Tensor& zero_point, int64_t quant_min, int64_t quant_max) {
  const Z* z = zero_point.const_data_ptr<Z>();
  const int64_t n = zero_point.numel();
  bool all = true;
  for (int64_t i = 0; i < n; ++i) all &= (z[i] >= quant_min) & (z[i] <= quant_max);
  if (all) return;
  const int64_t i = std::find_if_not(z, z + n, [&](Z x) { return x >= quant_min && x <= quant_max; }) - z;
  TORCH_CHECK_VALUE(false, op, ": zero_point must be within [", quant_min, ", ", quant_max, "], got ",
                    static_cast<int64_t>(z[i]), " at entry ", i);
}

}  // namespace

QParamsView qparams_view(const char* op, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::ScalarType compute, int64_t quant_min, int64_t quant_max) {
  QParamsView view;
  view.scale = scale.scalar_type() == compute && scale.is_contiguous() ? scale : scale.to(compute).contiguous();
  if (compute == at::kDouble) {
    check_scales<double>(op, view.scale);
  } else {
    check_scales<float>(op, view.scale);
  }
  view.scale_data = view.scale.const_data_ptr();
  if (!zero_point.has_value()) return view;
  at::Tensor z = zero_point->contiguous();
  if (z.scalar_type() == at::kInt) {
    check_zero_points<int32_t>(op, z, quant_min, quant_max);
  } else {
    z = z.to(at::kLong);
    check_zero_points<int64_t>(op, z, quant_min, quant_max);
    z = z.to(at::kInt);
  }
  view.zero_point = z;
  view.zero_point_data = z.const_data_ptr<int32_t>();
  return view;
}

namespace {

struct Scratch {  // elements [0, n) of lo and hi at the start values
  template <typename S>
  static void clear(S* lo, S* hi, int64_t n) {
    std::fill_n(lo, n, std::numeric_limits<S>::infinity());
    std::fill_n(hi, n, -std::numeric_limits<S>::infinity());
  }
};

// How many elements of the memory order belong to one step of the outermost block dimension, and how many steps there are.
std::pair<int64_t, int64_t> outer_blocks(const Blocks& b) {
  const int64_t steps = (b.size[0] + b.block[0] - 1) / b.block[0];
  return {b.numel / std::max<int64_t>(1, b.size[0]) * b.block[0], steps};
}

}  // namespace

template <typename S>
int64_t block_ranges(const at::Tensor& dense, const Blocks& blocks, S* lo, S* hi) {
  Scratch::clear(lo, hi, blocks.scales);
  if (blocks.numel == 0) return 0;
  const auto kernel = range_kernels().min_max[static_cast<int>(float_type(dense.scalar_type()))];
  const RangeArgs args{&blocks, dense.const_data_ptr(), lo, hi};
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads == 1 || blocks.numel <= grain) return kernel(args, 0, blocks.numel);
  std::atomic<int64_t> bad{0};
  const auto [step, steps] = outer_blocks(blocks);
  if (steps >= 4 * threads && blocks.stride[0] != 0) {  // each thread has scale entries of its own
    at::parallel_for(0, steps, std::max<int64_t>(1, grain / step), [&, step = step](int64_t first, int64_t last) {
      bad += kernel(args, first * step, std::min(last * step, blocks.numel));
    });
    return bad;
  }
  // Partial ranges per piece, combined in the end: minimum and maximum do not depend on the order.
  const int64_t pieces = std::min(threads, (blocks.numel + grain - 1) / grain);
  const int64_t piece = ((blocks.numel + pieces - 1) / pieces + tile - 1) / tile * tile;
  std::vector<S> partial(2 * pieces * blocks.scales);
  at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      RangeArgs own = args;
      S* own_lo = partial.data() + 2 * p * blocks.scales;
      own.lo = own_lo;
      own.hi = own_lo + blocks.scales;
      Scratch::clear(own_lo, own_lo + blocks.scales, blocks.scales);
      bad += kernel(own, std::min(p * piece, blocks.numel), std::min((p + 1) * piece, blocks.numel));
    }
  });
  for (int64_t p = 0; p < pieces; ++p) {
    const S* own_lo = partial.data() + 2 * p * blocks.scales;
    const S* own_hi = own_lo + blocks.scales;
    for (int64_t i = 0; i < blocks.scales; ++i) {
      lo[i] = std::min(lo[i], own_lo[i]);
      hi[i] = std::max(hi[i], own_hi[i]);
    }
  }
  return bad;
}

template int64_t block_ranges<float>(const at::Tensor&, const Blocks&, float*, float*);
template int64_t block_ranges<double>(const at::Tensor&, const Blocks&, double*, double*);

int64_t block_qparams(const at::Tensor& dense, const Blocks& blocks, int64_t quant_min, int64_t quant_max, bool symmetric,
                      void* scale, int32_t* zero_point) {
  const auto run = [&](auto zero, auto qparams) {
    using S = decltype(zero);
    c10::SmallVector<S, 64> range(2 * blocks.scales);
    S* lo = range.data();
    S* hi = lo + blocks.scales;
    const int64_t bad = block_ranges<S>(dense, blocks, lo, hi);
    qparams(lo, hi, blocks.scales, static_cast<int>(quant_min), static_cast<int>(quant_max), symmetric,
            static_cast<S*>(scale), zero_point);
    return bad;
  };
  if (dense.scalar_type() == at::kDouble) return run(0.0, range_kernels().qparams_f64);
  return run(0.0f, range_kernels().qparams_f32);
}

}  // namespace torchqat::cpu

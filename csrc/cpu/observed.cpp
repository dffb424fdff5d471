// CPU kernels of fake_quantize_observed and merge_range_. The data is read from memory once: statistics and quantising are one
// kernel where there is one, else they take turns on pieces that stay in the cache.
#include "ops/torch_headers.h"

#include <ATen/EmptyTensor.h>

#include "cpu/block_view.h"
#include "cpu/kernels/dynamic.h"
#include "cpu/output.h"
#include "cpu/range_state.h"
#include "cpu/strided_rows.h"
#include "ops/observed.h"
#include "ops/qparams.h"

namespace torchqat::cpu {
namespace {

// Into y, lo, hi and (where defined) mask; returns how many values were not finite. S: the compute type.
template <typename S>
int64_t run(const at::Tensor& x, const AffineArgs& args, S* lo, S* hi) {
  const Blocks& blocks = *args.blocks;
  std::fill_n(lo, blocks.scales, std::numeric_limits<S>::infinity());
  std::fill_n(hi, blocks.scales, -std::numeric_limits<S>::infinity());
  const int type = static_cast<int>(float_type(x.scalar_type()));
  const auto min_max = range_kernels().min_max[type];
  const auto quantise = affine_kernels().fake_quantize[type];
  constexpr int64_t piece = 16 * tile;
  const RowReader reader(x);
  const auto* table = select(&dynamic_scalar, &dynamic_avx2, &dynamic_avx512);
  const auto both = blocks.scales == 1 && std::is_same_v<S, float> ? table->observed[type] : nullptr;
  const auto work = [&](int64_t begin, int64_t end, S* own_lo, S* own_hi) {
    int64_t bad = 0;
    for (int64_t at = begin; at < end; at += piece) {
      reader.pieces(at, std::min(at + piece, end), [&](const void* in, int64_t from, int64_t to) {
        AffineArgs own = args;
        own.in = in;
        if constexpr (std::is_same_v<S, float>) {
          if (both != nullptr) {
            if (!both(own, from, to, own_lo, own_hi)) bad += min_max({&blocks, in, own_lo, own_hi}, from, to);
            return;
          }
        }
        bad += min_max({&blocks, in, own_lo, own_hi}, from, to);
        quantise(own, from, to);
      });
    }
    return bad;
  };
  const int64_t threads = std::min<int64_t>(at::in_parallel_region() ? 1 : at::get_num_threads(), (blocks.numel + grain - 1) / grain);
  if (threads <= 1) return work(0, blocks.numel, lo, hi);
  // Each thread has ranges of its own: minimum and maximum combine in any order.
  std::vector<S> partial(2 * threads * blocks.scales, std::numeric_limits<S>::infinity());
  const int64_t share = ((blocks.numel + threads - 1) / threads + tile - 1) / tile * tile;
  std::atomic<int64_t> bad{0};
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      S* own = partial.data() + 2 * t * blocks.scales;
      std::fill_n(own + blocks.scales, blocks.scales, -std::numeric_limits<S>::infinity());
      bad += work(std::min(t * share, blocks.numel), std::min((t + 1) * share, blocks.numel), own, own + blocks.scales);
    }
  });
  for (int64_t t = 0; t < threads; ++t) {
    const S* own = partial.data() + 2 * t * blocks.scales;
    for (int64_t i = 0; i < blocks.scales; ++i) {
      lo[i] = std::min(lo[i], own[i]);
      hi[i] = std::max(hi[i], own[blocks.scales + i]);
    }
  }
  return bad;
}

ObservedWithMask observe(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                         at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max, bool with_mask) {
  const auto shape = C10_AS_INTARRAYREF_SLOW(check_fake_quantize_observed(
      input, scale, zero_point, c10::fromIntArrayRefSlow(block_size), quant_min, quant_max));
  const at::Tensor x = readable(input);
  const auto compute = compute_type(x);
  at::Tensor y = result_like(x), mask;
  if (with_mask) mask = result_bytes((x.numel() + 7) / 8);
  // Without the dispatcher, whose calls a small input would notice.
  at::Tensor lo = at::detail::empty_cpu(shape, compute), hi = at::detail::empty_cpu(shape, compute);
  at::Tensor nonfinite = at::detail::empty_cpu({}, at::kLong);
  *nonfinite.mutable_data_ptr<int64_t>() = 0;
  const auto q = qparams_view("fake_quantize_observed", scale, zero_point, compute, quant_min, quant_max);
  const Blocks blocks = blocks_of(y, block_size);
  const AffineArgs args{&blocks, nullptr, y.mutable_data_ptr(),
                        with_mask ? mask.mutable_data_ptr<uint8_t>() : nullptr, q.scale_data, q.zero_point_data,
                        static_cast<int32_t>(quant_min), static_cast<int32_t>(quant_max), streams(y)};
  if (lo.numel() > 0) {
    const auto fill = [&](auto* least, auto* most) {
      *nonfinite.mutable_data_ptr<int64_t>() = run(x, args, least, most);
      // Adding zero drops the sign of -0, which depends on the order of the data.
      for (int64_t i = 0; i < blocks.scales; ++i) {
        least[i] += 0;
        most[i] += 0;
      }
    };
    if (compute == at::kDouble) {
      fill(lo.mutable_data_ptr<double>(), hi.mutable_data_ptr<double>());
    } else {
      fill(lo.mutable_data_ptr<float>(), hi.mutable_data_ptr<float>());
    }
  }
  return {y, lo, hi, nonfinite, mask};
}

Observed observed(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                  at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  auto [y, lo, hi, nonfinite, mask] = observe(input, scale, zero_point, block_size, quant_min, quant_max, false);
  return {y, lo, hi, nonfinite};
}

ObservedWithMask observed_forward(const at::Tensor& input, const at::Tensor& scale, const std::optional<at::Tensor>& zero_point,
                                  at::IntArrayRef block_size, int64_t quant_min, int64_t quant_max) {
  return observe(input, scale, zero_point, block_size, quant_min, quant_max, true);
}

std::tuple<at::Tensor, at::Tensor> merge_range(at::Tensor& min_val, at::Tensor& max_val, at::Tensor& nonfinite_count,
                                               const at::Tensor& new_min, const at::Tensor& new_max,
                                               const at::Tensor& new_nonfinite, double averaging_constant, int64_t quant_min,
                                               int64_t quant_max, bool symmetric) {
  check_merge_range(min_val, max_val, nonfinite_count, new_min, new_max, new_nonfinite, averaging_constant, quant_min, quant_max,
                    symmetric);
  const auto compute = compute_type(new_min);
  merge_into(min_val, max_val, new_min.to(compute).contiguous(), new_max.to(compute).contiguous(), averaging_constant);
  *nonfinite_count.mutable_data_ptr<int64_t>() += *new_nonfinite.const_data_ptr<int64_t>();
  return qparams_of_range(min_val, max_val, quant_min, quant_max, symmetric);
}

TORCH_LIBRARY_IMPL(torchqat, CPU, m) {
  m.impl("fake_quantize_observed", &observed);
  m.impl("_fake_quantize_observed_forward", &observed_forward);
  m.impl("merge_range_", &merge_range);
}

}  // namespace
}  // namespace torchqat::cpu

// BatchNorm over Vec lanes; included by one file per instruction set. Sums run in kLanes virtual lanes whatever Vec holds.
#pragma once
#include <type_traits>

#include "cpu/kernels/batch_norm.h"
#include "cpu/vec/vec.h"
#include "numerics/batch_norm.h"

namespace torchqat::cpu::batch_norm {
namespace {

using numerics::Vec;

constexpr int kLanes = 32;                   // of a sum over the pixels of one channel
constexpr int kVecs = kLanes / Vec::size;
constexpr int kRows = 4;                     // partial sums of a channel over channels-last rows

// Sums kLanes lanes in halves.
inline float total(const Vec* parts) {
  alignas(64) float lanes[kLanes];
  for (int i = 0; i < kVecs; ++i) parts[i].store(lanes + i * Vec::size);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The first `left` lanes of value; 0 beyond.
inline Vec kept(Vec value, int left) {
  float lanes[Vec::size];
  value.store(lanes);
  return Vec::load(lanes, left);
}

// Calls visit(i, count, lane) for every vector of [0, n): lane says which of the kVecs partial sums it belongs to.
template <typename Visit>
TORCHQAT_INLINE void for_vectors(int64_t n, Visit visit) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kVecs; ++lane) visit(i + lane * Vec::size, Vec::size, lane);
  }
  for (int lane = 0; i < n; i += Vec::size, ++lane) visit(i, static_cast<int>(std::min<int64_t>(Vec::size, n - i)), lane);
}

TORCHQAT_INLINE Vec load(const float* p, int count) { return count == Vec::size ? Vec::load(p) : Vec::load(p, count); }
TORCHQAT_INLINE void store(Vec value, float* p, int count) { count == Vec::size ? value.store(p) : value.store(p, count); }
TORCHQAT_INLINE Vec trimmed(Vec value, int count) { return count == Vec::size ? value : kept(value, count); }

// Start of block b in channel c of [samples, channels, pixels].
inline int64_t plane_at(const Shape& s, int64_t b, int64_t c) {
  const int64_t per = s.blocks_per_sample();
  return (b / per * s.channels + c) * s.pixels + b % per * s.block_size();
}

void moments_first(const Shape& s, const float* x, int64_t begin, int64_t end, const Moments& out) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t n = s.size_of(b);
    for (int64_t c = 0; c < s.channels; ++c) {
      const float* from = x + plane_at(s, b, c);
      Vec sum[kVecs], rest[kVecs], squares[kVecs];
      for (int i = 0; i < kVecs; ++i) sum[i] = rest[i] = squares[i] = Vec(0.0f);
      for_vectors(n, [&](int64_t i, int count, int lane) { sum[lane] = sum[lane] + load(from + i, count); });
      const float mean = total(sum) / static_cast<float>(n);
      for_vectors(n, [&](int64_t i, int count, int lane) {
        const Vec centred = trimmed(load(from + i, count) - Vec(mean), count);
        rest[lane] = rest[lane] + centred;
        squares[lane] = squares[lane] + centred * centred;
      });
      const int64_t at = b * s.channels + c;
      out.mean[at] = mean;
      out.rest[at] = total(rest);
      out.squares[at] = total(squares);
    }
  }
}

// Sums over rows of channels [c, c + count): visit(row) gives what is added, in kRows turns.
template <int Terms, typename Visit>
TORCHQAT_INLINE void sum_rows(int64_t rows, Visit visit, Vec* sums) {
  Vec parts[Terms][kRows];
  for (int t = 0; t < Terms; ++t) {
    for (int turn = 0; turn < kRows; ++turn) parts[t][turn] = Vec(0.0f);
  }
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    for (int turn = 0; turn < kRows; ++turn) {
      Vec terms[Terms];
      visit(row + turn, terms);
      for (int t = 0; t < Terms; ++t) parts[t][turn] = parts[t][turn] + terms[t];
    }
  }
  for (int turn = 0; row < rows; ++row, ++turn) {
    Vec terms[Terms];
    visit(row, terms);
    for (int t = 0; t < Terms; ++t) parts[t][turn] = parts[t][turn] + terms[t];
  }
  for (int t = 0; t < Terms; ++t) sums[t] = (parts[t][0] + parts[t][1]) + (parts[t][2] + parts[t][3]);
}

void moments_last(const Shape& s, const float* x, int64_t begin, int64_t end, const Moments& out) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t rows = s.size_of(b);
    const float* from = x + b * s.block_size() * s.channels;
    for (int64_t c = 0; c < s.channels; c += Vec::size) {
      const int count = static_cast<int>(std::min<int64_t>(Vec::size, s.channels - c));
      Vec sum[1], centred_sums[2];
      sum_rows<1>(rows, [&](int64_t row, Vec* terms) { terms[0] = load(from + row * s.channels + c, count); }, sum);
      const Vec mean = sum[0] / Vec(static_cast<float>(rows));
      sum_rows<2>(
          rows,
          [&](int64_t row, Vec* terms) {
            terms[0] = load(from + row * s.channels + c, count) - mean;
            terms[1] = terms[0] * terms[0];
          },
          centred_sums);
      const int64_t at = b * s.channels + c;
      store(mean, out.mean + at, count);
      store(centred_sums[0], out.rest + at, count);
      store(centred_sums[1], out.squares + at, count);
    }
  }
}

void moments(const Shape& s, const float* x, int64_t begin, int64_t end, const Moments& out) {
  s.channels_last ? moments_last(s, x, begin, end, out) : moments_first(s, x, begin, end, out);
}

// The gradient behind the ReLU, whose argument is worked out again.
template <bool Relu>
TORCHQAT_INLINE Vec open_gradient(Vec grad, Vec centred, Vec scale, Vec shift, Vec ceiling) {
  if constexpr (!Relu) return grad;
  return numerics::rectified_gradient(numerics::normalized(centred, scale, shift), ceiling, grad);
}

// Calls visit(offset, count, lane, mean, scale, shift, channel) for every vector of the blocks.
template <typename Visit>
TORCHQAT_INLINE void for_elements(const Shape& s, const Parameters& p, int64_t begin, int64_t end, Visit visit) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t n = s.size_of(b);
    if (s.channels_last) {
      const int64_t first = b * s.block_size() * s.channels;
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t c = 0; c < s.channels; c += Vec::size) {
          const int count = static_cast<int>(std::min<int64_t>(Vec::size, s.channels - c));
          visit(first + row * s.channels + c, count, load(p.mean + c, count), load(p.scale + c, count), load(p.shift + c, count), c);
        }
      }
      continue;
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t first = plane_at(s, b, c);
      const Vec mean(p.mean[c]), scale(p.scale[c]), shift(p.shift[c]);
      for_vectors(n, [&](int64_t i, int count, int) { visit(first + i, count, mean, scale, shift, c); });
    }
  }
}

void normalize(const Shape& s, const float* x, const Parameters& p, int64_t begin, int64_t end, float* y) {
  const Vec ceiling(p.ceiling);
  const auto run = [&](auto relu) {
    for_elements(s, p, begin, end, [&](int64_t at, int count, Vec mean, Vec scale, Vec shift, int64_t) {
      const Vec value = numerics::normalized(load(x + at, count) - mean, scale, shift);
      store(relu.value ? numerics::rectified(value, ceiling) : value, y + at, count);
    });
  };
  p.relu ? run(std::true_type()) : run(std::false_type());
}

template <bool Relu>
void gradient_sums_of(const Shape& s, const float* grad, const float* x, const Parameters& p, int64_t begin, int64_t end, float* sum,
                      float* product_sum) {
  const Vec ceiling(p.ceiling);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t n = s.size_of(b);
    if (s.channels_last) {
      const int64_t first = b * s.block_size() * s.channels;
      for (int64_t c = 0; c < s.channels; c += Vec::size) {
        const int count = static_cast<int>(std::min<int64_t>(Vec::size, s.channels - c));
        const Vec mean = load(p.mean + c, count), scale = load(p.scale + c, count), shift = load(p.shift + c, count);
        Vec sums[2];
        sum_rows<2>(
            n,
            [&](int64_t row, Vec* terms) {
              const int64_t at = first + row * s.channels + c;
              const Vec centred = load(x + at, count) - mean;
              terms[0] = open_gradient<Relu>(load(grad + at, count), centred, scale, shift, ceiling);
              terms[1] = terms[0] * centred;
            },
            sums);
        store(sums[0], sum + b * s.channels + c, count);
        store(sums[1], product_sum + b * s.channels + c, count);
      }
      continue;
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t first = plane_at(s, b, c);
      const Vec mean(p.mean[c]), scale(p.scale[c]), shift(p.shift[c]);
      Vec sums[kVecs], products[kVecs];
      for (int i = 0; i < kVecs; ++i) sums[i] = products[i] = Vec(0.0f);
      for_vectors(n, [&](int64_t i, int count, int lane) {
        const Vec centred = load(x + first + i, count) - mean;
        const Vec open = open_gradient<Relu>(load(grad + first + i, count), centred, scale, shift, ceiling);
        sums[lane] = sums[lane] + open;
        products[lane] = products[lane] + trimmed(open * centred, count);
      });
      sum[b * s.channels + c] = total(sums);
      product_sum[b * s.channels + c] = total(products);
    }
  }
}

void gradient_sums(const Shape& s, const float* grad, const float* x, const Parameters& p, int64_t begin, int64_t end, float* sum,
                   float* product_sum) {
  p.relu ? gradient_sums_of<true>(s, grad, x, p, begin, end, sum, product_sum)
         : gradient_sums_of<false>(s, grad, x, p, begin, end, sum, product_sum);
}

void gradient(const Shape& s, const float* grad, const float* x, const Parameters& p, const float* mean_grad, const float* slope,
              int64_t begin, int64_t end, float* dx) {
  const Vec ceiling(p.ceiling);
  const auto run = [&](auto relu) {
    for_elements(s, p, begin, end, [&](int64_t at, int count, Vec mean, Vec scale, Vec shift, int64_t c) {
      const Vec centred = load(x + at, count) - mean;
      const Vec open = open_gradient<relu.value>(load(grad + at, count), centred, scale, shift, ceiling);
      const Vec average = s.channels_last ? load(mean_grad + c, count) : Vec(mean_grad[c]);
      const Vec steep = s.channels_last ? load(slope + c, count) : Vec(slope[c]);
      store(numerics::normalized_gradient(open, centred, average, steep, scale), dx + at, count);
    });
  };
  p.relu ? run(std::true_type()) : run(std::false_type());
}

}  // namespace
}  // namespace torchqat::cpu::batch_norm

#define TORCHQAT_BATCH_NORM_KERNELS {&moments, &normalize, &gradient_sums, &gradient}

// Convolution on AVX-512, pixel by pixel: a tile's rows are output pixels wherever they lie, so that tiles run on over the ends of lines,
// and each tile's sums become results while the next tile's products are under way. Included by conv_int8_avx512.cpp after
// conv_int8_generic.h.
#pragma once
#include <algorithm>
#include <utility>

#include "cpu/kernels/conv_int8_generic.h"
#include "cpu/kernels/dot_avx512.h"

namespace torchqat::cpu::conv {
namespace {

constexpr int kMostRows = 12;        // of a tile
constexpr int64_t kPixelStretch = 192;  // pixels that all panels are run over in turn; a multiple of every full tile's rows

// Lines of memory that a tile asks for, so many with each run, while it has others to wait for.
struct Ahead {
  const char* from = nullptr;
  int64_t lines = 0;
};

// R pixels x V vectors of 16 columns; pixels: their first taps.
template <int R, int V>
__attribute__((noinline)) void pixel_tile(const uint8_t* const* pixels, const Run* runs, int run_count, const int8_t* panel,
                                          const int32_t* init, int32_t* sums, Ahead ahead) {
  const uint8_t* row[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) row[r] = pixels[r];
  __m512i acc[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_loadu_si512(init + 16 * v);
  }
  for (int j = 0; j < run_count; ++j) {
    const int8_t* w = panel + runs[j].w;
    for (int64_t i = 0; i < ahead.lines; ++i, ahead.from += 64) _mm_prefetch(ahead.from, _MM_HINT_T1);
    for (int64_t at = runs[j].a, end = at + 4 * runs[j].groups; at < end; at += 4, w += 4 * kPanel) {
      __m512i b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const __m512i q = broadcast4(row[r] + at);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = dot<U8S8>(acc[r][v], q, b[v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_si512(sums + r * kPanel + 16 * v, acc[r][v]);
  }
}

// Output pixels in order, and the bytes from the start of a plane to the first tap of each.
class PixelWalk {
 public:
  PixelWalk(const Plan& plan, int64_t pixel)
      : plan_(plan), step_(plan.stride[2] * plan.weight.plane_in), x_(pixel % plan.out[2]), y_(pixel / plan.out[2] % plan.out[1]),
        z_(pixel / plan.out[2] / plan.out[1]), at_(first_tap(plan, z_, y_, x_)) {}

  int64_t next() {
    const int64_t here = at_;
    at_ += step_;
    if (++x_ == plan_.out[2]) {
      x_ = 0;
      if (++y_ == plan_.out[1]) y_ = 0, ++z_;
      at_ = first_tap(plan_, z_, y_, 0);
    }
    return here;
  }

 private:
  const Plan& plan_;
  int64_t step_, x_, y_, z_, at_;
};

// The runs of a plan that gathers, without gathering: each piece's codes are read where they lie, in groups of their own, for which a
// panel's weights are moved apart.
class PieceRuns {
 public:
  static constexpr int64_t kMostGroups = 64, kMostPieces = 32;

  static bool serve(const Plan& plan) {
    int64_t groups = 0;
    for (const Piece& piece : plan.pieces) groups += (piece.bytes + 3) / 4;
    return static_cast<int64_t>(plan.pieces.size()) <= kMostPieces && groups <= kMostGroups && 2 * groups <= 3 * (plan.weight.run_len + 3) / 4;
  }

  void take(const Plan& plan, const int8_t* panel) {
    count = 0;
    int8_t* to = weights;
    for (const Piece& piece : plan.pieces) {
      runs[count++] = {piece.from, to - weights, (piece.bytes + 3) / 4};
      for (int64_t b = 0; b < piece.bytes; b += 4, to += 4 * kPanel) {
        const int64_t k = piece.to + b, within = k % 4;
        const int8_t* from = panel + k / 4 * (4 * kPanel);
        const int8_t* next = from + (within == 0 ? 0 : 4 * kPanel);
        const __m512i real = _mm512_set1_epi32(static_cast<int>(0xffffffffu >> (8 * (4 - std::min<int64_t>(4, piece.bytes - b)))));
        const __m128i down = _mm_cvtsi32_si128(static_cast<int>(8 * within)), up = _mm_cvtsi32_si128(static_cast<int>(32 - 8 * within));
        for (int64_t i = 0; i < 4 * kPanel; i += 64) {
          const __m512i low = _mm512_srl_epi32(_mm512_loadu_si512(from + i), down), high = _mm512_sll_epi32(_mm512_loadu_si512(next + i), up);
          _mm512_store_si512(to + i, _mm512_and_si512(real, _mm512_or_si512(low, high)));
        }
      }
    }
  }

  Run runs[kMostPieces];
  int count = 0;
  alignas(64) int8_t weights[kMostGroups * 4 * kPanel];
};

// What a sample's tiles ask for, shared out among its pixels.
class AheadOf {
 public:
  AheadOf(const Plan& plan, const Task& task)
      : from_(static_cast<const char*>(task.ahead)), lines_(task.ahead_bytes / 64), pixels_(plan.out_pixels()),
        runs_(static_cast<int64_t>(plan.walk == Walk::gather ? plan.pieces.size() : plan.runs.size())) {}

  Ahead operator()(int64_t pixel, int64_t count) const {
    if (from_ == nullptr) return {};
    const int64_t first = lines_ * pixel / pixels_, last = lines_ * (pixel + count) / pixels_;
    return {from_ + 64 * first, (last - first + runs_ - 1) / runs_};
  }

 private:
  const char* from_;
  int64_t lines_, pixels_, runs_;
};

// Tiles over pixels whose first taps are offsets[0, count) of a plane. finish(sums, first pixel, pixels).
template <int V, int... R, typename Finish>
TORCHQAT_INLINE void tiles_of(std::integer_sequence<int, R...>, const uint8_t* const* planes, int limbs, const int64_t* offsets, int64_t count,
                              const Run* runs, int run_count, const int8_t* panel, const int32_t* init, int32_t (*sums)[(kMostRows + 4) * kPanel],
                              const AheadOf* ahead, int64_t pixel, Finish finish) {
  using Tile = void (*)(const uint8_t* const*, const Run*, int, const int8_t*, const int32_t*, int32_t*, Ahead);
  static constexpr Tile of_rows[] = {&pixel_tile<R + 1, V>...};
  const int64_t most = sizeof...(R), tiles = (count + most - 1) / most;
  for (int64_t t = 0, r = 0; t < tiles; ++t) {
    const int64_t rows = (count - r) / (tiles - t);
    for (int limb = 0; limb < limbs; ++limb) {
      const uint8_t* pixels[kMostRows];
      for (int64_t i = 0; i < rows; ++i) pixels[i] = planes[limb] + offsets[r + i];
      of_rows[rows - 1](pixels, runs, run_count, panel, init, sums[limb],
                        ahead != nullptr && limb == 0 ? (*ahead)(pixel + r, rows) : Ahead{});
    }
    finish(r, rows);
    r += rows;
  }
}

bool pixel_tiles(const Plan& plan, const Task& task, int64_t begin, int64_t end, const Constants& constants) {
  const WeightLayout& w = plan.weight;
  const bool pieces = plan.walk == Walk::gather && PieceRuns::serve(plan);
  if ((plan.walk != Walk::lines && !pieces) || !task.channels_last || w.chunks > 1) return false;
  const auto first_pixel = [&](int64_t strip) {
    const Strip s = strip_at(plan, strip);
    return (s.slice * plan.out[1] + s.line) * plan.out[2] + s.start;
  };
  const int64_t first = first_pixel(begin), last = end == plan.strips ? plan.out_pixels() : first_pixel(end), channels = w.out_channels();
  const int limbs = task.low_codes != nullptr ? 2 : 1;
  const CodeGrid grid(task.grid);
  const CodePacker pack(grid);
  // Sums of a tile, and rows that full vectors of a few columns read beyond.
  alignas(64) int32_t sums[2][(kMostRows + 4) * kPanel] = {};
  int64_t offsets[kPixelStretch];
  PieceRuns apart;
  const AheadOf ahead(plan, task);
  PixelWalk walk(plan, first);
  for (int64_t pixel = first; pixel < last; pixel += kPixelStretch) {
    const int64_t count = std::min(kPixelStretch, last - pixel);
    for (int64_t i = 0; i < count; ++i) offsets[i] = walk.next();
    for (int64_t plane = 0; plane < w.planes; ++plane) {
      const uint8_t* planes[2] = {(task.plain != nullptr ? task.plain : task.codes) + plane * plan.plane_bytes,
                                  limbs > 1 ? task.low_codes + plane * plan.plane_bytes : nullptr};
      for (int64_t panel = 0; panel < w.panels; ++panel) {
        const int64_t at = plane * w.panels + panel;
        const int8_t* codes = packed_codes(task.packed) + at * w.panel_bytes();
        const Run* runs = plan.runs.data();
        auto run_count = static_cast<int>(plan.runs.size());
        if (pieces) {
          apart.take(plan, codes);
          codes = apart.weights;
          runs = apart.runs;
          run_count = apart.count;
        }
        const int32_t* init = constants.init + at * kPanel;
        const Block block = block_of(constants, plan, task, plane, panel, sums[0], reinterpret_cast<float*>(sums[1]),
                                     limbs > 1 ? Sums::limbs : Sums::exact);
        const auto run = [&](auto vectors, auto most, auto finish) __attribute__((always_inline)) {
          tiles_of<vectors.value>(std::make_integer_sequence<int, most.value>{}, planes, limbs, offsets, count, runs, run_count, codes, init, sums,
                                  at == 0 ? &ahead : nullptr, pixel, finish);
        };
        const auto with = [&](auto vectors, auto most, auto pixels) __attribute__((always_inline)) {
          if (task.out_codes == nullptr) {
            run(vectors, most, [&](int64_t r, int64_t rows) __attribute__((always_inline)) { finish_run(plan, task, block, 0, rows, pixel + r); });
          } else if (block.cut.window < 0) {
            run(vectors, most, [&](int64_t r, int64_t rows) { finish_codes(plan, task, block, 0, rows, pixel + r); });
          } else {
            const auto stored = [&](auto full) __attribute__((always_inline)) {
              const PixelStore<pixels.value, full.value> store(pack, block.cut, block.scale, block.bias, block.columns, channels);
              uint8_t* to = task.out_codes + pixel * channels + block.channel;
              run(vectors, most, [&](int64_t r, int64_t rows) __attribute__((always_inline)) { store(sums[0], rows, to + r * channels); });
            };
            grid.high == 255.0f ? stored(std::true_type{}) : stored(std::false_type{});
          }
        };
        using std::integral_constant;
        switch ((block.columns + 15) / 16) {
          case 1: with(integral_constant<int, 1>{}, integral_constant<int, 12>{}, integral_constant<int, 4>{}); break;
          case 2: with(integral_constant<int, 2>{}, integral_constant<int, 12>{}, integral_constant<int, 2>{}); break;
          case 3: with(integral_constant<int, 3>{}, integral_constant<int, 8>{}, integral_constant<int, 1>{}); break;
          default: with(integral_constant<int, 4>{}, integral_constant<int, 6>{}, integral_constant<int, 1>{}); break;
        }
      }
    }
  }
  return true;
}

}  // namespace
}  // namespace torchqat::cpu::conv

// One tile of a matrix product: R rows by W blocks of vectors, kept in registers while k runs.
//
//     acc[r][w][v] += Σ_k a(r, k) panel_w[k][v]
//
// A panel is a matrix whose rows, of the vectors v in [first, first + count), follow one another. The sum over k is in
// order, one after another, whatever the tile: no result depends on how rows are given to threads.
#pragma once

#include <utility>

#include "vector.h"

namespace lstm_jax::ISA {

// Vectors of a block of pre-activations.
inline constexpr int kWide = 4;
// As many accumulators as the registers hold: 32 of AVX-512 and NEON, else 16.
inline constexpr int kMostRows = MOST_ROWS;

template <typename T>
inline constexpr int kPanel = kWide * kLanes<T>;

template <typename T, int R, int W>
using Tile = Vec<T>[R][W][kWide];

// Rows of a are `stride` apart, its k are next to each other; panels are `panel_stride` apart.
template <int kFirst, int kCount, typename T, int R, int W>
LSTM_JAX_INLINE void add_product(Tile<T, R, W>& acc, const T* a, int64_t stride, const T* panel, int64_t panel_stride, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k)
    for (int w = 0; w < W; ++w) {
      Vec<T> row[kCount];
      for (int v = 0; v < kCount; ++v) row[v] = load(panel + w * panel_stride + (k * kCount + v) * kLanes<T>);
      for (int r = 0; r < R; ++r) {
        const Vec<T> scalar = all<T>(a[r * stride + k]);
        for (int v = 0; v < kCount; ++v) acc[r][w][kFirst + v] += scalar * row[v];
      }
    }
}

template <int n>
using Constant = std::integral_constant<int, n>;

// Calls f(rows, wide, row, panel) with constants for tiles of rows in [begin, end) and of panels in [first, last):
// kAtOnce panels, which is 1 where a panel has as many vectors as a tile holds. One row alone takes twice as many:
// with fewer, each sum would wait for the one before.
template <int kAtOnce = 1, typename F>
inline void for_tiles(int64_t begin, int64_t end, int64_t first, int64_t last, F&& f) {
  // A function of its own, so that there is one copy of the tiles and not one for each call below.
  const auto of_panels = [&](auto wide, int64_t panel, bool last_row) __attribute__((noinline)) {
    int64_t row = begin;
    for (; end - row >= kMostRows; row += kMostRows) f(Constant<kMostRows>{}, wide, row, panel);
    switch (end - row) {
      case 5: f(Constant<5>{}, wide, row, panel); break;
      case 4: f(Constant<4>{}, wide, row, panel); break;
      case 3: f(Constant<3>{}, wide, row, panel); break;
      case 2: f(Constant<2>{}, wide, row, panel); break;
      case 1:
        if (last_row) f(Constant<1>{}, wide, row, panel);
        break;
      default: break;
    }
  };
  int64_t panel = first;
  for (; last - panel >= 2 * kAtOnce; panel += 2 * kAtOnce) {
    of_panels(Constant<kAtOnce>{}, panel, false);
    of_panels(Constant<kAtOnce>{}, panel + kAtOnce, false);
    if ((end - begin) % kMostRows == 1) f(Constant<1>{}, Constant<2 * kAtOnce>{}, end - 1, panel);
  }
  for (; last - panel >= kAtOnce; panel += kAtOnce) of_panels(Constant<kAtOnce>{}, panel, true);
  for (; panel < last; ++panel) of_panels(Constant<1>{}, panel, true);
}

}  // namespace lstm_jax::ISA

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
inline void add_product(Tile<T, R, W>& acc, const T* a, int64_t stride, const T* panel, int64_t panel_stride, int64_t depth) {
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

// Calls f(rows, wide, row, panel) with constants for tiles of rows in [begin, end) and of panels in [first, last). One
// row alone takes two panels at once: with one, each sum would wait for the one before.
template <typename F>
inline void for_tiles(int64_t begin, int64_t end, int64_t first, int64_t last, F&& f) {
  constexpr std::integral_constant<int, 1> one{};
  for (int64_t panel = first; panel < last; panel += 2) {
    const int64_t here = std::min<int64_t>(2, last - panel);
    for (int64_t p = panel; p < panel + here; ++p) {
      int64_t row = begin;
      for (; end - row >= kMostRows; row += kMostRows) f(std::integral_constant<int, kMostRows>{}, one, row, p);
      switch (end - row) {
        case 5: f(std::integral_constant<int, 5>{}, one, row, p); break;
        case 4: f(std::integral_constant<int, 4>{}, one, row, p); break;
        case 3: f(std::integral_constant<int, 3>{}, one, row, p); break;
        case 2: f(std::integral_constant<int, 2>{}, one, row, p); break;
        case 1:
          if (here == 1) f(one, one, row, p);
          break;
        default: break;
      }
    }
    if (here == 2 && (end - begin) % kMostRows == 1) f(one, std::integral_constant<int, 2>{}, end - 1, panel);
  }
}

}  // namespace lstm_jax::ISA

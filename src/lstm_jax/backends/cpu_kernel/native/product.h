// One tile of a matrix product: kRows rows by kWide vectors, kept in registers while k runs.
//
//     acc[r][v] += Σ_k a(r, k) panel[k][v]
//
// A panel is a matrix [K, kWide · lanes] whose rows follow one another. The sum over k is in order, one after
// another, whatever the tile: no result depends on how rows are given to threads.
#pragma once

#include <utility>

#include "vector.h"

namespace lstm_jax::ISA {

inline constexpr int kWide = 4;
// As many accumulators as the registers hold: 32 of AVX-512 and NEON, else 16.
inline constexpr int kMostRows = MOST_ROWS;

template <typename T>
inline constexpr int kPanel = kWide * kLanes<T>;

// Rows of a are `stride` apart, its k are next to each other.
template <typename T, int kRows>
inline void add_product(Vec<T> (&acc)[kRows][kWide], const T* a, int64_t stride, const T* panel, int64_t panel_stride,
                        int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> w[kWide];
    for (int v = 0; v < kWide; ++v) w[v] = load(panel + k * panel_stride + v * kLanes<T>);
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> scalar = all<T>(a[r * stride + k]);
      for (int v = 0; v < kWide; ++v) acc[r][v] += scalar * w[v];
    }
  }
}

// Calls f.template operator()<kRows>(first) for tiles of at most kMostRows rows from begin to end.
template <typename F>
inline void for_tiles(int64_t begin, int64_t end, F&& f) {
  while (end - begin >= kMostRows) {
    f(std::integral_constant<int, kMostRows>{}, begin);
    begin += kMostRows;
  }
  switch (end - begin) {
    case 5: f(std::integral_constant<int, 5>{}, begin); break;
    case 4: f(std::integral_constant<int, 4>{}, begin); break;
    case 3: f(std::integral_constant<int, 3>{}, begin); break;
    case 2: f(std::integral_constant<int, 2>{}, begin); break;
    case 1: f(std::integral_constant<int, 1>{}, begin); break;
    default: break;
  }
}

}  // namespace lstm_jax::ISA

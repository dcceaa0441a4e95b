// How the arrays of a call lie in memory, and how its threads divide a step.
//
// Units are in blocks of as many as kUnitVectors vectors hold. A panel of a weight has all gates of a block side by
// side, so that the activations follow the product in registers.
#pragma once

#include <algorithm>

#include "cells.h"
#include "table.h"

namespace lstm_jax::ISA {

template <typename Cell>
struct Layout {
  using T = typename Cell::Number;
  using V = Vec<T>;
  using FromX = typename Cell::FromX;
  using FromH = typename Cell::FromH;
  static constexpr int L = kLanes<T>, P = kPanel<T>;
  static constexpr int kUnits = Cell::kUnitVectors * L;  // Of a block.
  template <typename Panel>
  static constexpr int kRow = Panel::kCount * L;  // Numbers of a panel's row.

  static int64_t blocks(int64_t units) { return (units + kUnits - 1) / kUnits; }
  static int64_t padded(int64_t units) { return blocks(units) * kUnits; }
  static int64_t wide(int64_t units) { return blocks(units) * P; }  // Of z, with padding.
  static int64_t kept_row(int64_t units) { return Cell::kKept * padded_units(units); }

  // The unit that a number of a panel's row belongs to.
  static int64_t unit_of(int64_t block, int v, int lane) {
    return block * kUnits + (v % Cell::kUnitVectors) * L + lane;
  }

  // w[n, gates · H] as [block][n][vectors of the panel].
  template <typename Panel>
  static void pack(const T* w, int64_t n, int64_t units, T* to, const Team& team) {
    team.run(blocks(units), [=](int64_t block) {
      for (int64_t k = 0; k < n; ++k)
        for (int v = 0; v < Panel::kCount; ++v) {
          const int64_t unit = unit_of(block, v, 0), here = std::clamp<int64_t>(units - unit, 0, L);
          const T* from = w + (k * Cell::kGates + Panel::gate(v)) * units + unit;
          T* row = to + ((block * n + k) * Panel::kCount + v) * L;
          if (here == L) {
            store(row, load(from));
          } else {
            for (int lane = 0; lane < L; ++lane) row[lane] = lane < here ? from[lane] : T(0);
          }
        }
    });
  }

  // Wᵀ of w[n, gates · H] as panels of its columns n: [⌈n / P⌉][block][numbers of a panel's row][P].
  template <typename Panel>
  static void pack_transposed(const T* w, int64_t n, int64_t units, T* to, const Team& team) {
    const int64_t count = blocks(units), row = kRow<Panel>;
    team.run(panels_of(n), [=](int64_t p) {
      T* panel = to + p * count * row * P;
      const int64_t here = std::min<int64_t>(P, n - p * P);
      for (int64_t block = 0; block < count; ++block)
        for (int v = 0; v < Panel::kCount; ++v)
          for (int lane = 0; lane < L; ++lane) {
            const int64_t unit = unit_of(block, v, lane);
            T* line = panel + (block * row + v * L + lane) * P;
            const T* from = w + (p * P * Cell::kGates + Panel::gate(v)) * units + unit;
            const int64_t columns = unit < units ? here : 0;
            for (int64_t j = 0; j < columns; ++j) line[j] = from[j * Cell::kGates * units];
            std::fill(line + columns, line + P, T(0));
          }
    });
  }

  // Rows between arrays [rows, H] and padded ones.
  static void pad(const T* from, int64_t units, T* to) {
    std::copy(from, from + units, to);
    std::fill(to + units, to + padded(units), T(0));
  }

  // How the threads divide a step: its rows, or, where there are too few of them, its units. Rows need no thread
  // to wait for another; units cost a meeting of all threads at every step, which only a large step is worth.
  struct Split {
    int64_t rows, units;
  };
  static Split split_of(const Sizes& s, const Team& team) {
    const bool large = s.rows * (s.inputs + s.units) * s.units * Cell::kGates >= (int64_t(1) << 17);
    if (s.rows < team.threads() * 2 && large) return {1, std::min(team.threads(), blocks(s.units))};
    return {std::min(team.threads(), s.rows), 1};
  }

  static int64_t tiles_of(int64_t n) { return (n + kMostRows - 1) / kMostRows; }
  static int64_t panels_of(int64_t n) { return (n + P - 1) / P; }
  // Of a row of δh: whole panels are written, and whole blocks of units read.
  static int64_t row_wide(int64_t units) { return std::max(panels_of(units) * P, padded(units)); }

  // All bits of the lanes whose unit keeps its state, from bytes of units [first, first + L).
  static typename Wide<T>::Bits keeps(const uint8_t* row, int64_t first, int64_t units) {
    typename Wide<T>::Bits found{};
    for (int lane = 0; lane < L; ++lane)
      if (first + lane < units && row[first + lane]) found[lane] = -1;
    return found;
  }
};

}  // namespace lstm_jax::ISA

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
  using FromReset = typename Cell::FromReset;
  static constexpr int L = kLanes<T>, P = kPanel<T>;
  static constexpr int kUnits = Cell::kUnitVectors * L;  // Of a block.
  static constexpr int64_t kPackRows = 16;
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

  // w[n, gates · H] as [block][n][vectors of the panel]. Rows of w are read in order, by some of them at a time.
  template <typename Panel>
  static void pack(const T* w, int64_t n, int64_t units, T* to, const Team& team) {
    team.run((n + kPackRows - 1) / kPackRows, [=](int64_t task) {
      for (int64_t k = task * kPackRows; k < std::min(n, (task + 1) * kPackRows); ++k)
        for (int v = 0; v < Panel::kCount; ++v)
          for (int64_t block = 0; block < blocks(units); ++block) {
            const int64_t unit = unit_of(block, v, 0);
            T* row = to + ((block * n + k) * Panel::kCount + v) * L;
            copy_padded(w + (k * Cell::kGates + Panel::gate(v)) * units + unit, std::clamp<int64_t>(units - unit, 0, L), row);
          }
    });
  }

  // Wᵀ of w[n, gates · H] as panels of its columns n: [⌈n / P⌉][block][numbers of a panel's row][P].
  template <typename Panel>
  static void pack_transposed(const T* w, int64_t n, int64_t units, T* to, const Team& team) {
    const int64_t count = blocks(units), row = kRow<Panel>;
    // As many columns at a time as a line of the panel's vectors has.
    team.run(panels_of(n) * kWide, [=](int64_t task) {
      const int64_t first = task * L, here = std::clamp<int64_t>(n - first, 0, L);
      T* lines = to + first / P * count * row * P + first % P;
      for (int v = 0; v < Panel::kCount; ++v)
        for (int64_t block = 0; block < count; ++block) {
          const int64_t unit = unit_of(block, v, 0), lanes = std::clamp<int64_t>(units - unit, 0, L);
          const T* from = w + (first * Cell::kGates + Panel::gate(v)) * units + unit;
          T tile[L][L];
          for (int64_t j = 0; j < here; ++j) copy_padded(from + j * Cell::kGates * units, lanes, tile[j]);
          for (int64_t j = here; j < L; ++j) std::fill_n(tile[j], L, T(0));
          for (int lane = 0; lane < L; ++lane) {
            T line[L];
            for (int j = 0; j < L; ++j) line[j] = tile[j][lane];
            std::copy_n(line, L, lines + (block * row + v * L + lane) * P);
          }
        }
    });
  }

  // One vector of which `here` numbers are there.
  static void copy_padded(const T* from, int64_t here, T* to) {
    if (here == L)
      store(to, load(from));
    else
      for (int lane = 0; lane < L; ++lane) to[lane] = lane < here ? from[lane] : T(0);
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

  // Panels of FromReset at once, which have one vector each.
  static constexpr int kResetPanels = kWide;

  static int64_t tiles_of(int64_t n) { return (n + kMostRows - 1) / kMostRows; }
  static int64_t panels_of(int64_t n) { return (n + P - 1) / P; }
  // Of a row of δh: whole panels are written, and whole blocks of units read.
  static int64_t row_wide(int64_t units) { return std::max(panels_of(units) * P, padded(units)); }

  // Zeros in place of the lanes of a block that stand for no unit, whatever a product with zeros gave them.
  static LSTM_JAX_INLINE void clear_padding(int64_t block, int64_t units, V* vectors, int count) {
    if ((block + 1) * kUnits <= units) return;
    // Whole vectors at a time: one lane of a vector would take all of them out of the registers.
    for (int v = 0; v < count; ++v) vectors[v] = present(block, units, v) ? vectors[v] : V{};
  }

  static typename Wide<T>::Bits present(int64_t block, int64_t units, int v) {
    decltype(typename Wide<T>::Bits{}[0] + 0) lanes[L];
    for (int lane = 0; lane < L; ++lane) lanes[lane] = unit_of(block, v, lane) < units ? -1 : 0;
    typename Wide<T>::Bits found;
    std::memcpy(&found, lanes, sizeof found);
    return found;
  }

  // All bits of the lanes whose unit keeps its state, from bytes of units [first, first + L).
  static typename Wide<T>::Bits keeps(const uint8_t* row, int64_t first, int64_t units) {
    typename Wide<T>::Bits found{};
    for (int lane = 0; lane < L; ++lane)
      if (first + lane < units && row[first + lane]) found[lane] = -1;
    return found;
  }
};

}  // namespace lstm_jax::ISA

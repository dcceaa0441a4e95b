// A cell over a whole sequence: forward, with the residuals where a gradient follows.
//
//     z_t = x_t W_x + h_{t−1} W_h + b,  then the elementwise part of the cell (cells.h), and between the steps
//
//     s'_{t−1} = 0 where reset, else s_{t−1}       h_{t−1} before W_h times the factor of recurrent dropout
//     s_t = s'_{t−1} where the unit keeps its state or the step is none of the sequence's, else the cell's
//
// Threads have rows of the batch each, and no step waits for another thread. With few rows, x W_x + b is made for some
// steps at a time, so that W_x is read once for them.
#pragma once

#include "layout.h"

namespace lstm_jax::ISA {

template <typename Cell>
struct Forward : Layout<Cell> {
  using Base = Layout<Cell>;
  using typename Base::FromH;
  using typename Base::FromReset;
  using typename Base::FromX;
  using typename Base::T;
  using typename Base::V;
  using Base::kUnits;
  using Base::L;
  using Base::P;
  static constexpr int64_t kRowsAhead = 48;  // Of x W_x.

  const Sizes& s;
  const Inputs<T>& in;
  const Outputs<T>& out;
  const int64_t H, D, B, count, padded, Z;
  T *packed_x, *packed_h, *packed_reset, *bias, *h[2], *c, *dropped, *gates, *z_ahead, *x_ahead;

  Forward(const Sizes& s, const Inputs<T>& in, const Outputs<T>& out)
      : s(s), in(in), out(out), H(s.units), D(s.inputs), B(s.rows), count(Base::blocks(H)), padded(Base::padded(H)),
        Z(Base::wide(H)) {}

  // Steps whose x W_x is made at a time, for a thread with so many rows: with a tile of them or more, one by one.
  int64_t steps_ahead(int64_t rows) const {
    return rows >= kMostRows ? 1 : std::min<int64_t>(s.steps, kRowsAhead / rows);
  }

  void run(Memory& memory, const Team& team) {
    const auto split = Base::split_of(s, team);
    const int64_t most = (B + split.rows - 1) / split.rows, ahead = steps_ahead(most);
    const int64_t weights = count * Base::template kRow<FromX>, hidden = count * Base::template kRow<FromH>;
    const int64_t reset = count * Base::template kRow<FromReset>, halves = Cell::kResetsBefore ? B * Z : 0;
    memory.reserve(Memory::bytes<T>(weights * D) + Memory::bytes<T>(hidden * H) + Memory::bytes<T>(reset * H) +
                   Memory::bytes<T>(halves) + Memory::bytes<T>(Z) +
                   4 * Memory::bytes<T>(B * padded) + Memory::bytes<T>(split.rows * ahead * most * Z) +
                   Memory::bytes<T>(split.rows * ahead * most * D));
    packed_x = memory.take<T>(weights * D);
    packed_h = memory.take<T>(hidden * H);
    packed_reset = memory.take<T>(reset * H);
    gates = memory.take<T>(halves);
    bias = memory.take<T>(Z);
    for (T** rows : {&h[0], &h[1], &c, &dropped}) *rows = memory.take<T>(B * padded);
    z_ahead = memory.take<T>(split.rows * ahead * most * Z);
    x_ahead = memory.take<T>(split.rows * ahead * most * D);
    Base::template pack<FromX>(in.w_x, D, H, packed_x, team);
    Base::template pack<FromH>(in.w_h, H, H, packed_h, team);
    if constexpr (Cell::kResetsBefore) Base::template pack<FromReset>(in.w_h, H, H, packed_reset, team);
    pack_bias();
    const Team alone;
    team.run(split.rows, [&](int64_t part) {
      const int64_t begin = B * part / split.rows, end = B * (part + 1) / split.rows;
      rows_over_time(begin, end, part * ahead * most, ahead, split.units, split.units > 1 ? team : alone);
    });
    const T* last = h[s.steps % 2];
    for (int64_t r = 0; r < B; ++r) {
      std::copy(last + r * padded, last + r * padded + H, out.h_end + r * H);
      if (Cell::kMemory) std::copy(c + r * padded, c + r * padded + H, out.c_end + r * H);
    }
  }

  void pack_bias() {
    using Bias = typename Cell::Bias;
    for (int64_t block = 0; block < count; ++block)
      for (int v = 0; v < kWide; ++v)
        for (int lane = 0; lane < L; ++lane) {
          const int64_t unit = Base::unit_of(block, v, lane);
          T value = 0;
          if (unit < H && v < Bias::kCount) value = in.b[Bias::gate(v) * H + unit];
          if (unit < H && v >= Bias::kCount && Cell::kHiddenBias) value = in.b_hn[unit];
          bias[block * P + v * L + lane] = value;
        }
  }

  void rows_over_time(int64_t begin, int64_t end, int64_t buffer, int64_t ahead, int64_t parts, const Team& team) {
    for (int64_t r = begin; r < end; ++r) {
      Base::pad(in.h0 + r * H, H, h[0] + r * padded);
      if (Cell::kMemory) Base::pad(in.c0 + r * H, H, c + r * padded);
    }
    const int64_t rows = end - begin;
    for (int64_t first = 0; first < s.steps; first += ahead) {
      const int64_t here = std::min(ahead, s.steps - first);
      T* z = ahead > 1 ? z_ahead + buffer * Z : nullptr;
      if (z != nullptr) {
        T* x = x_ahead + buffer * D;
        for (int64_t n = 0; n < here; ++n)
          std::copy_n(in.x + (s.time(first + n) * B + begin) * D, rows * D, x + n * rows * D);
        team.run(parts, [&](int64_t part) {
          inputs_of(x, here * rows, z, count * part / parts, count * (part + 1) / parts);
        });
      }
      for (int64_t t = first; t < first + here; ++t) {
        const T* z_now = z == nullptr ? nullptr : z + (t - first) * rows * Z;
        prepare(t, begin, end);
        team.run(parts, [&](int64_t part) {
          step(t, begin, end, z_now, count * part / parts, count * (part + 1) / parts);
        });
        if constexpr (Cell::kResetsBefore)
          team.run(parts, [&](int64_t part) {
            finish(t, begin, end, count * part / parts, count * (part + 1) / parts);
          });
        keep(t, begin, end);
      }
    }
  }

  // x W_x + b of some rows.
  void inputs_of(const T* x, int64_t rows, T* z, int64_t first, int64_t last) const {
    for_tiles(0, rows, first, last, [&](auto tile_rows, auto tile_wide, int64_t r, int64_t block) {
      constexpr int R = decltype(tile_rows)::value, W = decltype(tile_wide)::value;
      Tile<T, R, W> sum;
      add_inputs<R, W>(sum, x + r * D, block);
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w)
          for (int v = 0; v < kWide; ++v) store(z + (r + i) * Z + (block + w) * P + v * L, sum[i][w][v]);
    });
  }

  template <int R, int W>
  LSTM_JAX_INLINE void add_inputs(Tile<T, R, W>& sum, const T* x, int64_t block) const {
    for (int i = 0; i < R; ++i)
      for (int w = 0; w < W; ++w)
        for (int v = 0; v < kWide; ++v) sum[i][w][v] = load(bias + (block + w) * P + v * L);
    constexpr int64_t row = Base::template kRow<FromX>;
    add_product<FromX::kFirst, FromX::kCount, T, R, W>(sum, x, D, packed_x + block * D * row, D * row, D);
  }

  // What a step begins with: zeros after a reset; and h_{t−1} as W_h meets it.
  void prepare(int64_t t, int64_t begin, int64_t end) const {
    const Masks<T>& masks = in.masks;
    if (masks.marks == nullptr && masks.dropout == nullptr) return;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = s.time(t) * B + r;
      T* before = h[t % 2] + r * padded;
      if (masks.marks != nullptr && masks.marks[row] & kReset) {
        std::fill_n(before, padded, T(0));
        std::fill_n(c + r * padded, padded, T(0));
      }
      if (masks.dropout == nullptr) continue;
      T* after = dropped + r * padded;
      for (int64_t u = 0; u < H; ++u) after[u] = before[u] * masks.dropout[row * H + u];
      std::fill_n(after + H, padded - H, T(0));
    }
  }

  // Some rows, and some blocks of their units, of the t-th step.
  void step(int64_t t, int64_t begin, int64_t end, const T* z_now, int64_t first, int64_t last) const {
    const int64_t at = s.time(t);
    const T* from = in.masks.dropout == nullptr ? h[t % 2] : dropped;
    for_tiles(begin, end, first, last, [&](auto tile_rows, auto tile_wide, int64_t r, int64_t block) {
      constexpr int R = decltype(tile_rows)::value, W = decltype(tile_wide)::value;
      Tile<T, R, W> z;
      if (z_now == nullptr) {
        add_inputs<R, W>(z, in.x + (at * B + r) * D, block);
      } else {
        for (int i = 0; i < R; ++i)
          for (int w = 0; w < W; ++w)
            for (int v = 0; v < kWide; ++v) z[i][w][v] = load(z_now + (r - begin + i) * Z + (block + w) * P + v * L);
      }
      constexpr int64_t row = Base::template kRow<FromH>;
      add_product<FromH::kFirst, FromH::kCount, T, R, W>(z, from + r * padded, padded, packed_h + block * H * row, H * row,
                                                         H);
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w) {
          if constexpr (Cell::kResetsBefore)
            reset(t, r + i, block + w, z[i][w]);
          else
            elementwise(t, at * B + r + i, r + i, block + w, z[i][w]);
        }
    });
  }

  // Of a cell that resets before W_h: a_t, with r, u and the part of z_n that is known.
  LSTM_JAX_INLINE void reset(int64_t t, int64_t r, int64_t block, V (&z)[kWide]) const {
    Base::clear_padding(block, H, z, kWide);
    const int64_t unit = r * padded + block * kUnits;
    T* now = gates + r * Z + block * P;
    store(dropped + unit, Cell::reset(z, load(h[t % 2] + unit), now));
    store(now + 2 * L, z[0]);
  }

  // And its step's end, when all of a_t are there.
  void finish(int64_t t, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    constexpr int64_t row = Base::template kRow<FromReset>;
    for_tiles<Base::kResetPanels>(begin, end, first, last, [&](auto tile_rows, auto tile_wide, int64_t r, int64_t block) {
      constexpr int R = decltype(tile_rows)::value, W = decltype(tile_wide)::value;
      Tile<T, R, W> z;
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w) z[i][w][0] = load(gates + (r + i) * Z + (block + w) * P + 2 * L);
      add_product<0, 1, T, R, W>(z, dropped + r * padded, padded, packed_reset + block * H * row, H * row, H);
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w) elementwise(t, s.time(t) * B + r + i, r + i, block + w, z[i][w]);
    });
  }

  LSTM_JAX_INLINE void elementwise(int64_t t, int64_t row, int64_t r, int64_t block, V (&z)[kWide]) const {
    Base::clear_padding(block, H, z, Cell::kResetsBefore ? 1 : kWide);
    const int64_t unit = r * padded + block * kUnits;
    const T* before = h[t % 2] + unit;
    T* after = h[(t + 1) % 2] + unit;
    V h_before[Cell::kUnitVectors], h_now[Cell::kUnitVectors], c_before{}, c_now{};
    for (int v = 0; v < Cell::kUnitVectors; ++v) h_before[v] = load(before + v * L);
    if constexpr (Cell::kMemory) c_before = load(c + unit);
    T* kept = out.kept == nullptr || Cell::kKept == 0
                  ? nullptr
                  : out.kept + row * Base::kept_row(H) + block * Cell::kKept * L;
    if constexpr (Cell::kResetsBefore)
      h_now[0] = Cell::update(z[0], h_before[0], gates + r * Z + block * P, kept);
    else
      Cell::forward(z, h_before, c_before, h_now, &c_now, kept);
    const Masks<T>& masks = in.masks;
    if (masks.keeps_h != nullptr) {
      for (int v = 0; v < Cell::kUnitVectors; ++v)
        h_now[v] = Base::keeps(masks.keeps_h + row * H, block * kUnits + v * L, H) ? h_before[v] : h_now[v];
      if constexpr (Cell::kMemory) c_now = Base::keeps(masks.keeps_c + row * H, block * kUnits, H) ? c_before : c_now;
    }
    if (masks.marks != nullptr && masks.marks[row] & kPasses) {
      for (int v = 0; v < Cell::kUnitVectors; ++v) h_now[v] = h_before[v];
      c_now = c_before;
    }
    for (int v = 0; v < Cell::kUnitVectors; ++v) store(after + v * L, h_now[v]);
    if constexpr (Cell::kMemory) {
      store(c + unit, c_now);
      if (kept != nullptr) store(kept + 4 * L, c_now);
    }
  }

  // The output of the t-th step.
  void keep(int64_t t, int64_t begin, int64_t end) const {
    const T* after = h[(t + 1) % 2];
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = s.time(t) * B + r;
      if (in.masks.marks != nullptr && in.masks.marks[row] & kSilent)
        std::fill_n(out.hs + row * H, H, T(0));
      else
        std::copy_n(after + r * padded, H, out.hs + row * H);
      if (out.kept == nullptr) continue;
      const int64_t written = count * Cell::kKept * L, all_kept = Base::kept_row(H);
      std::fill_n(out.kept + row * all_kept + written, all_kept - written, T(0));
    }
  }
};

template <typename Cell>
void forward(const Sizes& s, const Inputs<typename Cell::Number>& in, const Outputs<typename Cell::Number>& out,
             Memory& memory, const Team& team) {
  Forward<Cell>(s, in, out).run(memory, team);
}

}  // namespace lstm_jax::ISA

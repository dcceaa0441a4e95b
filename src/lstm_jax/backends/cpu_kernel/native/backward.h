// Every gradient of a cell over a whole sequence.
//
//     δh_t += ∂ℓ_t/∂h_t;  the elementwise part of the cell (cells.h) gives δz_t and what does not pass through W_h;
//     δh_{t−1} = that + δz_t W_hᵀ,   δx_t = δz_t W_xᵀ,   δ[W_x; W_h; b] = Σ_t [x_t, h_{t−1}, 1]ᵀ δz_t
//
// A unit that keeps its state, and a step that is none of the sequence's, pass δs_t on. The sums over time are made for
// some steps at a time, while their δz is in the cache, each number of them by one thread.
#pragma once

#include "layout.h"

namespace lstm_jax::ISA {

template <typename Cell>
struct Backward : Layout<Cell> {
  using Base = Layout<Cell>;
  using typename Base::FromH;
  using typename Base::FromReset;
  using typename Base::FromX;
  using typename Base::T;
  using typename Base::V;
  using Base::kUnits;
  using Base::L;
  using Base::P;
  static constexpr int64_t kSumRows = 256;      // Rows of δz that are kept for the sums over time,
  static constexpr int64_t kGroupSteps = 16;    // and of each group at least so many steps.
  static constexpr int64_t kRowsOfInputs = 48;  // Rows of δx that one thread makes at a time.

  // Σ featureᵀ δz, some features each in a tile, [group][tile][kMostRows][row of the panel in every block].
  template <typename Panel>
  struct Sums {
    static constexpr int64_t kRow = Base::template kRow<Panel>;
    int64_t features, tiles, wide;
    T *sums, *features_of;  // features_of[tile][row of the chunk][kMostRows]; sums between chunks
    T* to;                  // and, in JAX's order, at the end.

    Sums(int64_t features, int64_t count, T* to)
        : features(features), tiles(Base::tiles_of(features)), wide(count * kRow), to(to) {}

    int64_t numbers(int64_t groups) const { return groups * tiles * kMostRows * wide; }

    void note(int64_t row, int64_t rows, const T* values) const {
      for (int64_t m = 0; m < tiles * kMostRows; ++m)
        features_of[((m / kMostRows) * rows + row) * kMostRows + m % kMostRows] = m < features ? values[m] : T(0);
    }
  };

  const Sizes& s;
  const Inputs<T>& in;
  const Cotangents<T>& d;
  const int64_t H, D, B, count, padded, Z, h_wide, chunk;
  Sums<FromX> of_x;
  Sums<FromH> of_h;
  Sums<FromReset> of_reset;
  T *packed_h, *packed_x, *packed_reset, *bias_sums, *d_z, *d_h, *d_c, *d_a, *scratch;

  Backward(const Sizes& s, const Inputs<T>& in, const Cotangents<T>& d)
      : s(s), in(in), d(d), H(s.units), D(s.inputs), B(s.rows), count(Base::blocks(H)), padded(Base::padded(H)),
        Z(Base::wide(H)), h_wide(Base::row_wide(H)), chunk(steps_of_chunk(s)), of_x(D, count, d.d_wx), of_h(H, count, d.d_wh), of_reset(Cell::kResetsBefore ? H : 0, count, d.d_wh) {}

  static int64_t steps_of_chunk(const Sizes& s) {
    const int64_t least = s.groups > 1 ? kGroupSteps : 1;
    return std::min<int64_t>(s.steps, std::max<int64_t>(least, kSumRows / s.rows));
  }

  void run(Memory& memory, const Team& team) {
    const auto split = Base::split_of(s, team);
    const int64_t rows = chunk * B;
    struct Piece {
      T** at;
      int64_t numbers;
    };
    const Piece pieces[] = {
        {&packed_h, Base::panels_of(H) * count * Base::template kRow<FromH> * P},
        {&packed_x, Base::panels_of(D) * count * Base::template kRow<FromX> * P},
        {&packed_reset, Base::panels_of(H) * count * Base::template kRow<FromReset> * P},
        {&of_x.sums, chunk < s.steps ? of_x.numbers(s.groups) : 0},
        {&of_h.sums, chunk < s.steps ? of_h.numbers(s.groups) : 0},
        {&of_reset.sums, chunk < s.steps ? of_reset.numbers(s.groups) : 0},
        {&of_x.features_of, of_x.tiles * kMostRows * rows},
        {&of_h.features_of, of_h.tiles * kMostRows * rows},
        {&of_reset.features_of, of_reset.tiles * kMostRows * rows},
        {&bias_sums, s.groups * Z},
        {&d_z, rows * Z},
        {&d_h, B * h_wide},
        {&d_c, B * padded},
        {&d_a, Cell::kResetsBefore ? B * h_wide : 0},
        {&scratch, split.rows * 3 * padded},
    };
    int64_t bytes = 0;
    for (const Piece& piece : pieces) bytes += Memory::bytes<T>(piece.numbers);
    memory.reserve(bytes);
    for (const Piece& piece : pieces) *piece.at = memory.take<T>(piece.numbers);
    Base::template pack_transposed<FromH>(in.w_h, H, H, packed_h, team);
    Base::template pack_transposed<FromX>(in.w_x, D, H, packed_x, team);
    if constexpr (Cell::kResetsBefore) Base::template pack_transposed<FromReset>(in.w_h, H, H, packed_reset, team);
    std::fill_n(bias_sums, s.groups * Z, T(0));
    const Team alone;
    for (int64_t left = s.steps; left > 0; left -= std::min(chunk, left)) {
      const int64_t first = left - std::min(chunk, left);
      team.run(split.rows, [&](int64_t part) {
        const int64_t begin = B * part / split.rows, end = B * (part + 1) / split.rows;
        if (left == s.steps) begin_rows(begin, end);
        steps_back(first, left, begin, end, scratch + part * 3 * padded, split.units, split.units > 1 ? team : alone);
      });
      sum_up(first, left, team);
    }
    for (int64_t r = 0; r < B; ++r) {
      std::copy_n(d_h + r * h_wide, H, d.d_h0 + r * H);
      if (Cell::kMemory) std::copy_n(d_c + r * padded, H, d.d_c0 + r * H);
    }
    give_biases();
  }

  void begin_rows(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(d.d_h_end + r * H, H, d_h + r * h_wide);
      std::fill_n(d_h + r * h_wide + H, h_wide - H, T(0));
      if (Cell::kMemory) Base::pad(d.d_c_end + r * H, H, d_c + r * padded);
    }
  }

  void steps_back(int64_t first, int64_t left, int64_t begin, int64_t end, T* rows, int64_t parts, const Team& team) const {
    const int64_t panels = Base::panels_of(H);
    for (int64_t t = left - 1; t >= first; --t) {
      for (int64_t r = begin; r < end; ++r) elementwise(t, (t - first) * B + r, r, rows);
      if constexpr (Cell::kResetsBefore) {
        team.run(parts, [&](int64_t part) {
          through_reset((t - first) * B, begin, end, panels * part / parts, panels * (part + 1) / parts);
        });
        for (int64_t r = begin; r < end; ++r) reset(t, (t - first) * B + r, r, rows);
      }
      team.run(parts, [&](int64_t part) {
        through_weights(t, (t - first) * B, begin, end, panels * part / parts, panels * (part + 1) / parts);
      });
      cut(t, begin, end);
    }
  }

  // The row of the inputs that belongs to a row of the cotangents.
  int64_t given(int64_t t, int64_t r) const { return s.time(t) * s.given_rows + r % s.given_rows; }

  // δz of a row of the t-th step, and what the sums over time need of it. `rows` is room for three rows of units.
  void elementwise(int64_t t, int64_t at, int64_t r, T* rows) const {
    const int64_t row = given(t, r), row_before = t ? given(t - 1, r) : 0, first = r % s.given_rows;
    const uint8_t mark = in.masks.marks == nullptr ? 0 : in.masks.marks[row];
    T *h_before = rows, *h_now = rows + padded, *dropped = rows + 2 * padded, *d_row = d_h + r * h_wide;
    if (!(mark & kSilent))
      for (int64_t u = 0; u < H; ++u) d_row[u] += d.d_hs[(s.time(t) * B + r) * H + u];
    state_before(t, r, h_before);
    if (Cell::kKept == 0) Base::pad(d.hs + row * H, H, h_now);
    const T* kept_before = t ? d.kept + row_before * Base::kept_row(H) : nullptr;
    for (int64_t block = 0; block < count; ++block) {
      V d_now[Cell::kUnitVectors], before[Cell::kUnitVectors], now[Cell::kUnitVectors], through[kWide];
      V c_before{}, d_cell{};
      for (int v = 0; v < Cell::kUnitVectors; ++v) {
        before[v] = load(h_before + block * kUnits + v * L);
        now[v] = Cell::kKept == 0 ? load(h_now + block * kUnits + v * L) : V{};
        d_now[v] = load(d_row + block * kUnits + v * L);
      }
      if constexpr (Cell::kMemory) {
        d_cell = load(d_c + r * padded + block * L);
        if (!(mark & kReset)) c_before = memory_before(kept_before, first, block);
      }
      pass(row, block, mark, d.kept + row * Base::kept_row(H) + block * Cell::kKept * L, now, before, c_before, d_now, &d_cell,
           through);
      Base::clear_padding(block, H, through, kWide);
      Base::clear_padding(block, H, d_now, Cell::kUnitVectors);
      Base::clear_padding(block, H, &d_cell, 1);
      for (int v = 0; v < kWide; ++v) store(d_z + at * Z + block * P + v * L, through[v]);
      for (int v = 0; v < Cell::kUnitVectors; ++v) store(d_row + block * kUnits + v * L, d_now[v]);
      if constexpr (Cell::kMemory) store(d_c + r * padded + block * L, d_cell);
    }
    of_x.note(at, chunk * B, in.x + row * D);
    if (in.masks.dropout != nullptr) {
      for (int64_t u = 0; u < H; ++u) dropped[u] = h_before[u] * in.masks.dropout[row * H + u];
      h_before = dropped;
    }
    of_h.note(at, chunk * B, h_before);
  }

  // Of a cell that resets before W_h: δa_t = δz_n W_hnᵀ of some panels,
  void through_reset(int64_t at, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    for_tiles(begin, end, first, last, [&](auto tile_rows, auto tile_wide, int64_t r, int64_t panel) {
      constexpr int R = decltype(tile_rows)::value, W = decltype(tile_wide)::value;
      Tile<T, R, W> found = {};
      add_through<FromReset, R, W>(found, d_z + (at + r) * Z, packed_reset, panel);
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w)
          for (int v = 0; v < kWide; ++v) store(d_a + (r + i) * h_wide + (panel + w) * P + v * L, found[i][w][v]);
    });
  }

  // and with it δz_r, what passes by to h_{t−1}, and a_t for the sums.
  void reset(int64_t t, int64_t at, int64_t r, T* rows) const {
    const int64_t row = given(t, r);
    T *h_before = rows, *a = rows + padded;
    state_before(t, r, h_before);
    for (int64_t block = 0; block < count; ++block) {
      const T* kept = d.kept + row * Base::kept_row(H) + block * Cell::kKept * L;
      const V before = load(h_before + block * L);
      V d_now = load(d_h + r * h_wide + block * L);
      V d_reset = Cell::backward_reset(kept, before, load(d_a + r * h_wide + block * L), &d_now);
      Base::clear_padding(block, H, &d_reset, 1);
      store(d_z + at * Z + block * P + L, passes(row) ? V{} : d_reset);
      if (!passes(row)) store(d_h + r * h_wide + block * L, d_now);
      store(a + block * L, load(kept) * before);
    }
    of_reset.note(at, chunk * B, a);
  }

  bool passes(int64_t row) const { return in.masks.marks != nullptr && in.masks.marks[row] & kPasses; }

  // h_{t−1} of a row, zeros after a reset.
  void state_before(int64_t t, int64_t r, T* to) const {
    if (in.masks.marks != nullptr && in.masks.marks[given(t, r)] & kReset)
      std::fill_n(to, padded, T(0));
    else
      Base::pad(t ? d.hs + given(t - 1, r) * H : in.h0 + r % s.given_rows * H, H, to);
  }

  V memory_before(const T* kept, int64_t r, int64_t block) const {
    if (kept != nullptr) return load(kept + (block * Cell::kKept + 4) * L);
    V found{};
    for (int lane = 0; lane < L && block * L + lane < H; ++lane) found[lane] = in.c0[r * H + block * L + lane];
    return found;
  }

  // δs_t becomes the part of δs_{t−1} that does not pass through W_h.
  LSTM_JAX_INLINE void pass(int64_t row, int64_t block, uint8_t mark, const T* kept, const V* h, const V* h_before, V c_before, V* d_now,
            V* d_cell, V (&through)[kWide]) const {
    if (mark & kPasses) {
      for (V& one : through) one = V{};
      return;
    }
    if (in.masks.keeps_h == nullptr) {
      Cell::backward(kept, h, h_before, c_before, d_now, d_cell, through);
      return;
    }
    V kept_h[Cell::kUnitVectors], kept_c{};
    for (int v = 0; v < Cell::kUnitVectors; ++v) {
      const auto keeps = Base::keeps(in.masks.keeps_h + row * H, block * kUnits + v * L, H);
      kept_h[v] = keeps ? d_now[v] : V{};
      d_now[v] = keeps ? V{} : d_now[v];
    }
    if constexpr (Cell::kMemory) {
      const auto keeps = Base::keeps(in.masks.keeps_c + row * H, block * kUnits, H);
      kept_c = keeps ? *d_cell : V{};
      *d_cell = keeps ? V{} : *d_cell;
    }
    Cell::backward(kept, h, h_before, c_before, d_now, d_cell, through);
    for (int v = 0; v < Cell::kUnitVectors; ++v) d_now[v] += kept_h[v];
    *d_cell += kept_c;
  }

  // Σ over z of δz and a panel of Wᵀ.
  template <typename Panel, int R, int W>
  LSTM_JAX_INLINE void add_through(Tile<T, R, W>& found, const T* from, const T* packed, int64_t panel) const {
    constexpr int64_t row = Base::template kRow<Panel>;
    const int64_t depth = count * row;
    for (int64_t block = 0; block < (row == P ? 1 : count); ++block)
      add_product<0, kWide, T, R, W>(found, from + Panel::kFirst * L + block * P, Z, packed + (panel * depth + block * row) * P,
                                     depth * P, row == P ? depth : row);
  }

  // δh_{t−1} += δz_t W_hᵀ, some panels of its units.
  void through_weights(int64_t t, int64_t at, int64_t begin, int64_t end, int64_t first, int64_t last) const {
    for_tiles(begin, end, first, last, [&](auto tile_rows, auto tile_wide, int64_t r, int64_t panel) {
      constexpr int R = decltype(tile_rows)::value, W = decltype(tile_wide)::value;
      Tile<T, R, W> found = {};
      add_through<FromH, R, W>(found, d_z + (at + r) * Z, packed_h, panel);
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w) {
          const int64_t unit = (panel + w) * P;
          T* to = d_h + (r + i) * h_wide + unit;
          if (in.masks.dropout != nullptr) drop(found[i][w], given(t, r + i) * H, unit);
          for (int v = 0; v < kWide; ++v) store(to + v * L, load(to + v * L) + found[i][w][v]);
        }
    });
  }

  LSTM_JAX_INLINE void drop(V (&found)[kWide], int64_t row, int64_t unit) const {
    for (int v = 0; v < kWide; ++v)
      for (int lane = 0; lane < L && unit + v * L + lane < H; ++lane)
        found[v][lane] *= in.masks.dropout[row + unit + v * L + lane];
  }

  // Nothing passes to the state before a reset or a cut.
  void cut(int64_t t, int64_t begin, int64_t end) const {
    if (in.masks.marks == nullptr) return;
    for (int64_t r = begin; r < end; ++r)
      if (in.masks.marks[given(t, r)] & (kReset | kCut)) {
        std::fill_n(d_h + r * h_wide, h_wide, T(0));
        std::fill_n(d_c + r * padded, padded, T(0));
      }
  }

  // A chunk: how many steps, and whether the sums begin or end with it.
  struct Part {
    int64_t steps;
    bool begins, ends;
  };

  // δx of the chunk, some rows each, and its part of the sums, some features of a group each.
  void sum_up(int64_t first, int64_t left, const Team& team) const {
    const int64_t steps = left - first, rows = steps * B, of_rows = (rows + kRowsOfInputs - 1) / kRowsOfInputs;
    const int64_t tiles = of_x.tiles + of_h.tiles + of_reset.tiles + 1;
    const Part part{steps, left == s.steps, first == 0};
    team.run(of_rows + s.groups * tiles, [&](int64_t task) {
      if (task < of_rows) {
        inputs_back(first, task * kRowsOfInputs, std::min(rows, (task + 1) * kRowsOfInputs));
        return;
      }
      const int64_t group = (task - of_rows) / tiles, tile = (task - of_rows) % tiles;
      if (tile < of_x.tiles)
        add_sums(of_x, part, group, tile);
      else if (tile < of_x.tiles + of_h.tiles)
        add_sums(of_h, part, group, tile - of_x.tiles);
      else if (tile + 1 < tiles)
        add_sums(of_reset, part, group, tile - of_x.tiles - of_h.tiles);
      else
        add_biases(steps, group);
    });
  }

  void inputs_back(int64_t first, int64_t begin, int64_t end) const {
    for_tiles(begin, end, 0, Base::panels_of(D), [&](auto tile_rows, auto tile_wide, int64_t r, int64_t panel) {
      constexpr int R = decltype(tile_rows)::value, W = decltype(tile_wide)::value;
      Tile<T, R, W> found = {};
      add_through<FromX, R, W>(found, d_z + r * Z, packed_x, panel);
      for (int i = 0; i < R; ++i)
        for (int w = 0; w < W; ++w) {
          T values[P];
          for (int v = 0; v < kWide; ++v) store(values + v * L, found[i][w][v]);
          const int64_t row = s.time(first + (r + i) / B) * B + (r + i) % B, column = (panel + w) * P;
          std::copy_n(values, std::min<int64_t>(P, D - column), d.d_x + row * D + column);
        }
    });
  }

  // Calls f(row) for the rows of a group in some steps.
  template <typename F>
  void for_rows(int64_t steps, int64_t group, F&& f) const {
    // Those of one group follow one another.
    const int64_t outer = s.groups == 1 ? 1 : steps, inner = s.groups == 1 ? steps * B : B / s.groups;
    for (int64_t n = 0; n < outer; ++n)
      for (int64_t row = n * B + group * inner; row < n * B + (group + 1) * inner; ++row) f(row);
  }

  template <typename Panel>
  void add_sums(const Sums<Panel>& of, const Part& part, int64_t group, int64_t tile) const {
    if constexpr (Panel::kCount > 0) add_some_sums(of, part, group, tile);
  }

  template <typename Panel>
  void add_some_sums(const Sums<Panel>& of, const Part& part, int64_t group, int64_t tile) const {
    const T* feature = of.features_of + tile * chunk * B * kMostRows;
    for (int64_t block = 0; block < count; ++block) {
      V sum[kMostRows][Panel::kCount] = {};
      T* kept = of.sums + (group * of.tiles + tile) * kMostRows * of.wide + block * of.kRow;
      const T* from = d_z + block * P + Panel::kFirst * L;
      for (int m = 0; m < kMostRows && !part.begins; ++m)
        for (int v = 0; v < Panel::kCount; ++v) sum[m][v] = load(kept + m * of.wide + v * L);
      for_rows(part.steps, group, [&](int64_t row) {
        V z[Panel::kCount];
        for (int v = 0; v < Panel::kCount; ++v) z[v] = load(from + row * Z + v * L);
        for (int m = 0; m < kMostRows; ++m) {
          const V scalar = all<T>(feature[row * kMostRows + m]);
          for (int v = 0; v < Panel::kCount; ++v) sum[m][v] += scalar * z[v];
        }
      });
      for (int m = 0; m < kMostRows; ++m)
        for (int v = 0; v < Panel::kCount; ++v) {
          if (part.ends)
            give(of, group, tile * kMostRows + m, block, v, sum[m][v]);
          else
            store(kept + m * of.wide + v * L, sum[m][v]);
        }
    }
  }

  template <typename Panel>
  void give(const Sums<Panel>& of, int64_t group, int64_t m, int64_t block, int v, V sum) const {
    const int64_t unit = Base::unit_of(block, v, 0), here = H - unit;
    if (m >= of.features) return;
    T* to = of.to + ((group * of.features + m) * Cell::kGates + Panel::gate(v)) * H + unit;
    for (int lane = 0; here < L && lane < here; ++lane) to[lane] = sum[lane];
    if (here >= L) store(to, sum);
  }

  void add_biases(int64_t steps, int64_t group) const {
    for (int64_t block = 0; block < count; ++block) {
      T* kept = bias_sums + group * Z + block * P;
      V sum[kWide];
      for (int v = 0; v < kWide; ++v) sum[v] = load(kept + v * L);
      for_rows(steps, group, [&](int64_t row) {
        for (int v = 0; v < kWide; ++v) sum[v] += load(d_z + row * Z + block * P + v * L);
      });
      for (int v = 0; v < kWide; ++v) store(kept + v * L, sum[v]);
    }
  }

  void give_biases() const {
    using Bias = typename Cell::Bias;
    for (int64_t group = 0; group < s.groups; ++group)
      for (int64_t block = 0; block < count; ++block)
        for (int v = 0; v < kWide; ++v)
          for (int lane = 0; lane < L; ++lane) {
            const int64_t unit = Base::unit_of(block, v, lane);
            if (unit >= H) continue;
            const T value = bias_sums[group * Z + block * P + v * L + lane];
            if (v < Bias::kCount)
              d.d_b[(group * Cell::kGates + Bias::gate(v)) * H + unit] = value;
            else if (Cell::kHiddenBias)
              d.d_bhn[group * H + unit] = value;
          }
  }
};

template <typename Cell>
void backward(const Sizes& s, const Inputs<typename Cell::Number>& in, const Cotangents<typename Cell::Number>& d,
              Memory& memory, const Team& team) {
  Backward<Cell>(s, in, d).run(memory, team);
}

}  // namespace lstm_jax::ISA

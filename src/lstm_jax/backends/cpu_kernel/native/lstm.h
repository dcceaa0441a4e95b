// The LSTM over a whole sequence: forward, forward with residuals, and every gradient.
//
//     z_t = x_t W_x + h_{t−1} W_h + b          i, f, o = σ(z_i), σ(z_f), σ(z_o);   g = tanh(z_g)
//     C_t = f ⊙ C_{t−1} + i ⊙ g                h_t = o ⊙ tanh C_t
//
// and backward, with δh_t and δC_t complete (docs/derivation.md has the same symbols),
//
//     δC_t += δh_t ⊙ o ⊙ (1 − tanh² C_t)       δz_o = δh_t ⊙ tanh C_t ⊙ o (1 − o)
//     δz_i = δC_t ⊙ g ⊙ i (1 − i)              δz_f = δC_t ⊙ C_{t−1} ⊙ f (1 − f)       δz_g = δC_t ⊙ i ⊙ (1 − g²)
//     δh_{t−1} = δz_t W_hᵀ,  δC_{t−1} = δC_t ⊙ f,  δx_t = δz_t W_xᵀ,  δ[W_x; W_h; b] = Σ_t [x_t, h_{t−1}, 1]ᵀ δz_t
//
// Units are in blocks of as many as a vector holds. A panel has the four gates of a block side by side, so that the
// activations follow the product in registers. Threads have rows of the batch each, and no step waits for another
// thread; the sums over time are made for some steps at a time, each number of them by one thread.
#pragma once

#include <algorithm>

#include "activations.h"
#include "product.h"
#include "table.h"

namespace lstm_jax::ISA {

template <typename T>
struct Lstm {
  static constexpr int L = kLanes<T>, P = kPanel<T>;
  static constexpr int64_t kSumRows = 256;  // Rows of δz that are kept for the sums over time.

  // Vectors of units; the residuals' padding has room for all of them.
  static int64_t blocks(int64_t units) { return padded_units(units) / L; }
  static int64_t wide(int64_t units) { return blocks(units) * P; }  // Of z, with padding.

  // w[n, 4H] as [block][n][4 · lanes].
  static void pack(const T* w, int64_t n, int64_t units, T* to, const Team& team) {
    team.run(blocks(units), [=](int64_t block) {
      T* panel = to + block * n * P;
      for (int64_t k = 0; k < n; ++k)
        for (int gate = 0; gate < 4; ++gate)
          for (int lane = 0; lane < L; ++lane) {
            const int64_t unit = block * L + lane;
            panel[k * P + gate * L + lane] = unit < units ? w[(k * 4 + gate) * units + unit] : T(0);
          }
    });
  }

  // Wᵀ of w[n, 4H] as panels of its columns n: [⌈n / P⌉][z in the order of the blocks][P].
  static void pack_transposed(const T* w, int64_t n, int64_t units, T* to, const Team& team) {
    const int64_t depth = wide(units), panels = (n + P - 1) / P;
    team.run(panels, [=](int64_t p) {
      T* panel = to + p * depth * P;
      for (int64_t z = 0; z < depth; ++z) {
        const int64_t unit = z / P * L + z % L, gate = z % P / L;
        for (int j = 0; j < P; ++j) {
          const int64_t column = p * P + j;
          panel[z * P + j] = unit < units && column < n ? w[(column * 4 + gate) * units + unit] : T(0);
        }
      }
    });
  }

  // Rows of h, C or δ between arrays [rows, H] and padded ones [rows, blocks · L].
  static void pad(const T* from, int64_t units, T* to) {
    const int64_t padded = blocks(units) * L;
    std::copy(from, from + units, to);
    std::fill(to + units, to + padded, T(0));
  }

  // How the threads divide a step: its rows, or, where there are too few of them, its units. Rows need no thread
  // to wait for another; units cost a meeting of all threads at every step, which only a large step is worth.
  struct Split {
    int64_t rows, units;
  };
  static Split split_of(const Sizes& s, const Team& team) {
    const bool large = s.rows * (s.inputs + s.units) * s.units >= (int64_t(1) << 19);
    if (s.rows < team.threads() * 2 && large) return {1, std::min(team.threads(), blocks(s.units))};
    return {std::min(team.threads(), s.rows), 1};
  }

  static int64_t forward_bytes(const Sizes& s) {
    const int64_t padded = blocks(s.units) * L;
    return Memory::bytes<T>(wide(s.units) * (s.inputs + s.units + 1)) + 3 * Memory::bytes<T>(s.rows * padded);
  }

  static void forward(const Sizes& s, const LstmForward<T>& arrays, Memory& memory, const Team& team) {
    const T *x = arrays.x, *w_x = arrays.w_x, *w_h = arrays.w_h, *b = arrays.b, *h0 = arrays.h0, *c0 =
        arrays.c0;
    T *hs = arrays.hs, *h_end = arrays.h_end, *c_end = arrays.c_end, *gates = arrays.gates, *cs = arrays.cs;
    memory.reserve(forward_bytes(s) + 256);
    const int64_t H = s.units, D = s.inputs, B = s.rows, count = blocks(H), padded = count * L;
    T* packed_x = memory.take<T>(wide(H) * D);
    T* packed_h = memory.take<T>(wide(H) * H);
    T* bias = memory.take<T>(wide(H));
    T* h[2] = {memory.take<T>(B * padded), memory.take<T>(B * padded)};
    T* c = memory.take<T>(B * padded);
    pack(w_x, D, H, packed_x, team);
    pack(w_h, H, H, packed_h, team);
    pack(b, 1, H, bias, team);
    // Some rows, and some blocks of their units, of the t-th step.
    auto step = [&](int64_t t, int64_t begin, int64_t end, int64_t first_block, int64_t last_block) {
      const int64_t at = s.time(t);
      const T* before = h[t % 2];
      T* after = h[(t + 1) % 2];
      for (int64_t block = first_block; block < last_block; ++block)
        for_tiles(begin, end, [&](auto rows, int64_t r) {
          constexpr int R = decltype(rows)::value;
          Vec<T> z[R][kWide];
          for (int i = 0; i < R; ++i)
            for (int v = 0; v < kWide; ++v) z[i][v] = load(bias + block * P + v * L);
          add_product<T, R>(z, x + (at * B + r) * D, D, packed_x + block * D * P, P, D);
          add_product<T, R>(z, before + r * padded, padded, packed_h + block * H * P, P, H);
          for (int i = 0; i < R; ++i) {
            const int64_t unit = (r + i) * padded + block * L, row = at * B + r + i;
            const Vec<T> in = sigmoid<T>(z[i][0]), forget = sigmoid<T>(z[i][1]);
            const Vec<T> candidate = tanh<T>(z[i][2]), out = sigmoid<T>(z[i][3]);
            const Vec<T> memory_now = forget * load(c + unit) + in * candidate;
            store(c + unit, memory_now);
            store(after + unit, out * tanh<T>(memory_now));
            if (gates == nullptr) continue;
            T* kept = gates + row * wide(H) + block * P;
            store(kept, in);
            store(kept + L, forget);
            store(kept + 2 * L, candidate);
            store(kept + 3 * L, out);
            store(cs + row * padded + block * L, memory_now);
          }
        });
    };
    auto begin_rows = [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        pad(h0 + r * H, H, h[0] + r * padded);
        pad(c0 + r * H, H, c + r * padded);
      }
    };
    auto keep_rows = [&](int64_t t, int64_t begin, int64_t end) {
      const T* after = h[(t + 1) % 2];
      for (int64_t r = begin; r < end; ++r)
        std::copy(after + r * padded, after + r * padded + H, hs + (s.time(t) * B + r) * H);
    };
    const Split split = split_of(s, team);
    if (split.units > 1) {
      begin_rows(0, B);
      for (int64_t t = 0; t < s.steps; ++t) {
        team.run(split.units, [&](int64_t part) {
          step(t, 0, B, count * part / split.units, count * (part + 1) / split.units);
        });
        keep_rows(t, 0, B);
      }
    } else {
      team.run(split.rows, [&](int64_t part) {
        const int64_t begin = B * part / split.rows, end = B * (part + 1) / split.rows;
        begin_rows(begin, end);
        for (int64_t t = 0; t < s.steps; ++t) {
          step(t, begin, end, 0, count);
          keep_rows(t, begin, end);
        }
      });
    }
    const T* last = h[s.steps % 2];
    for (int64_t r = 0; r < B; ++r) {
      std::copy(last + r * padded, last + r * padded + H, h_end + r * H);
      std::copy(c + r * padded, c + r * padded + H, c_end + r * H);
    }
  }

  static int64_t sum_steps(const Sizes& s) {
    return std::min<int64_t>(s.steps, std::max<int64_t>(1, kSumRows / s.rows));
  }
  static int64_t features(const Sizes& s) { return s.inputs + s.units + 1; }
  static int64_t tiles_of(int64_t n) { return (n + kMostRows - 1) / kMostRows; }
  static int64_t panels_of(int64_t n) { return (n + P - 1) / P; }
  // Of a row of δh: whole panels are written, and whole blocks of units read.
  static int64_t row_wide(int64_t units) { return std::max(panels_of(units) * P, padded_units(units)); }

  static int64_t backward_bytes(const Sizes& s) {
    const int64_t z = wide(s.units), padded = blocks(s.units) * L, chunk = sum_steps(s) * s.rows;
    return Memory::bytes<T>(panels_of(s.units) * z * P) + Memory::bytes<T>(panels_of(s.inputs) * z * P) +
           Memory::bytes<T>(tiles_of(features(s)) * kMostRows * z) +
           Memory::bytes<T>(tiles_of(features(s)) * kMostRows * chunk) + Memory::bytes<T>(chunk * z) +
           Memory::bytes<T>(s.rows * row_wide(s.units)) + Memory::bytes<T>(s.rows * padded);
  }

  static void backward(const Sizes& s, const LstmBackward<T>& arrays, Memory& memory, const Team& team) {
    const T *x = arrays.x, *w_x = arrays.w_x, *w_h = arrays.w_h, *h0 = arrays.h0, *c0 = arrays.c0, *hs =
        arrays.hs, *gates = arrays.gates, *cs = arrays.cs, *d_hs = arrays.d_hs, *d_h_end = arrays.d_h_end,
        *d_c_end = arrays.d_c_end;
    T *d_x = arrays.d_x, *d_wx = arrays.d_wx, *d_wh = arrays.d_wh, *d_b = arrays.d_b, *d_h0 = arrays.d_h0, *d_c0
        = arrays.d_c0;
    memory.reserve(backward_bytes(s) + 512);
    const int64_t H = s.units, D = s.inputs, B = s.rows, count = blocks(H), padded = count * L, Z = wide(H);
    const int64_t h_panels = panels_of(H), x_panels = panels_of(D), tiles = tiles_of(features(s));
    const int64_t chunk = sum_steps(s), h_wide = row_wide(H);
    T* packed_h = memory.take<T>(h_panels * Z * P);
    T* packed_x = memory.take<T>(x_panels * Z * P);
    T* sums = memory.take<T>(tiles * kMostRows * Z);
    T* features_of = memory.take<T>(tiles * kMostRows * chunk * B);  // [tile][row][kMostRows]
    T* d_z = memory.take<T>(chunk * B * Z);
    T* d_h = memory.take<T>(B * h_wide);
    T* d_c = memory.take<T>(B * padded);
    pack_transposed(w_h, H, H, packed_h, team);
    pack_transposed(w_x, D, H, packed_x, team);
    std::fill(sums, sums + tiles * kMostRows * Z, T(0));
    const Split split = split_of(s, team);
    auto begin_rows = [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        std::copy(d_h_end + r * H, d_h_end + (r + 1) * H, d_h + r * h_wide);
        std::fill(d_h + r * h_wide + H, d_h + (r + 1) * h_wide, T(0));
        pad(d_c_end + r * H, H, d_c + r * padded);
      }
    };
    // δz of some rows of the t-th step, and what the sums over time need of them.
    auto elementwise = [&](int64_t t, int64_t row0, int64_t begin, int64_t end) {
      const int64_t at = s.time(t);
      const T* h_before = t ? hs + s.time(t - 1) * B * H : h0;
      for (int64_t r = begin; r < end; ++r) {
        const int64_t row = at * B + r;
        T* d_row = d_h + r * h_wide;
        for (int64_t u = 0; u < H; ++u) d_row[u] += d_hs[row * H + u];
        const T* before = t ? cs + (s.time(t - 1) * B + r) * padded : nullptr;
        for (int64_t block = 0; block < count; ++block) {
          const T* kept = gates + row * Z + block * P;
          const Vec<T> in = load(kept), forget = load(kept + L), candidate = load(kept + 2 * L);
          const Vec<T> out = load(kept + 3 * L), squashed = tanh<T>(load(cs + row * padded + block * L));
          const Vec<T> one = all<T>(1), d_out = load(d_row + block * L);
          Vec<T> c_before = Vec<T>{};
          if (before != nullptr) {
            c_before = load(before + block * L);
          } else {
            for (int lane = 0; lane < L && block * L + lane < H; ++lane) c_before[lane] = c0[r * H + block * L + lane];
          }
          T* d_memory = d_c + r * padded + block * L;
          const Vec<T> d_cell = load(d_memory) + d_out * out * (one - squashed * squashed);
          T* to = d_z + (row0 + r) * Z + block * P;
          store(to, d_cell * candidate * in * (one - in));
          store(to + L, d_cell * c_before * forget * (one - forget));
          store(to + 2 * L, d_cell * in * (one - candidate * candidate));
          store(to + 3 * L, d_out * squashed * out * (one - out));
          store(d_memory, d_cell * forget);
        }
        for (int64_t m = 0; m < tiles * kMostRows; ++m) {
          const T value = m < D ? x[row * D + m] : m < D + H ? h_before[r * H + m - D] : T(m == D + H);
          features_of[((m / kMostRows) * chunk * B + row0 + r) * kMostRows + m % kMostRows] = value;
        }
      }
    };
    // δh_{t−1} = δz_t W_hᵀ, some panels of its units.
    auto step_back = [&](int64_t row0, int64_t begin, int64_t end, int64_t first_panel, int64_t last_panel) {
      for (int64_t panel = first_panel; panel < last_panel; ++panel)
        for_tiles(begin, end, [&](auto rows, int64_t r) {
          constexpr int R = decltype(rows)::value;
          Vec<T> found[R][kWide] = {};
          add_product<T, R>(found, d_z + (row0 + r) * Z, Z, packed_h + panel * Z * P, P, Z);
          for (int i = 0; i < R; ++i)
            for (int v = 0; v < kWide; ++v) store(d_h + (r + i) * h_wide + panel * P + v * L, found[i][v]);
        });
    };
    if (split.units > 1) begin_rows(0, B);
    for (int64_t left = s.steps; left > 0;) {
      const int64_t here = std::min(chunk, left), first = left - here;
      if (split.units > 1) {
        for (int64_t t = left - 1; t >= first; --t) {
          elementwise(t, (t - first) * B, 0, B);
          team.run(split.units, [&](int64_t part) {
            step_back((t - first) * B, 0, B, h_panels * part / split.units, h_panels * (part + 1) / split.units);
          });
        }
      } else {
        team.run(split.rows, [&](int64_t part) {
          const int64_t begin = B * part / split.rows, end = B * (part + 1) / split.rows;
          if (left == s.steps) begin_rows(begin, end);
          for (int64_t t = left - 1; t >= first; --t) {
            elementwise(t, (t - first) * B, begin, end);
            step_back((t - first) * B, begin, end, 0, h_panels);
          }
        });
      }
      const int64_t rows_here = here * B;
      // δx, a tile of rows each; and the sums over time, some features by all gates each.
      const int64_t row_tasks = (rows_here + 47) / 48;
      team.run(row_tasks + tiles, [&](int64_t task) {
        if (task < row_tasks) {
          for (int64_t panel = 0; panel < x_panels; ++panel)
            for_tiles(task * 48, std::min(rows_here, (task + 1) * 48), [&](auto rows, int64_t r) {
              constexpr int R = decltype(rows)::value;
              Vec<T> found[R][kWide] = {};
              add_product<T, R>(found, d_z + r * Z, Z, packed_x + panel * Z * P, P, Z);
              for (int i = 0; i < R; ++i) {
                T values[P];
                for (int v = 0; v < kWide; ++v) store(values + v * L, found[i][v]);
                const int64_t row = s.time(first + (r + i) / B) * B + (r + i) % B;
                std::copy(values, values + std::min<int64_t>(P, D - panel * P), d_x + row * D + panel * P);
              }
            });
          return;
        }
        const int64_t tile = task - row_tasks;
        const T* feature = features_of + tile * chunk * B * kMostRows;
        for (int64_t block = 0; block < count; ++block) {
          Vec<T> sum[kMostRows][kWide];
          T* kept = sums + tile * kMostRows * Z + block * P;
          for (int m = 0; m < kMostRows; ++m)
            for (int v = 0; v < kWide; ++v) sum[m][v] = load(kept + m * Z + v * L);
          for (int64_t k = 0; k < rows_here; ++k) {
            Vec<T> w[kWide];
            for (int v = 0; v < kWide; ++v) w[v] = load(d_z + k * Z + block * P + v * L);
            for (int m = 0; m < kMostRows; ++m) {
              const Vec<T> scalar = all<T>(feature[k * kMostRows + m]);
              for (int v = 0; v < kWide; ++v) sum[m][v] += scalar * w[v];
            }
          }
          for (int m = 0; m < kMostRows; ++m)
            for (int v = 0; v < kWide; ++v) store(kept + m * Z + v * L, sum[m][v]);
        }
      });
      left = first;
    }
    for (int64_t r = 0; r < B; ++r) {
      std::copy(d_h + r * h_wide, d_h + r * h_wide + H, d_h0 + r * H);
      std::copy(d_c + r * padded, d_c + r * padded + H, d_c0 + r * H);
    }
    for (int64_t m = 0; m < features(s); ++m) {
      T* to = m < D ? d_wx + m * 4 * H : m < D + H ? d_wh + (m - D) * 4 * H : d_b;
      for (int64_t gate = 0; gate < 4; ++gate)
        for (int64_t u = 0; u < H; ++u) to[gate * H + u] = sums[m * Z + u / L * P + gate * L + u % L];
    }
  }
};

}  // namespace lstm_jax::ISA

// The LSTM and its gradients by plain loops in double precision: obviously right, for comparison.
#pragma once

#include <cmath>
#include <vector>

#include "table.h"

namespace plain {

using Doubles = std::vector<double>;

struct Arrays {
  Doubles x, w_x, w_h, b, h0, c0, d_hs, d_h_end, d_c_end;                       // What is given,
  Doubles hs, h_end, c_end, d_x, d_wx, d_wh, d_b, d_h0, d_c0;                   // and what comes of it.
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline void lstm(const lstm_jax::Sizes& s, Arrays& a) {
  const int64_t T = s.steps, B = s.rows, D = s.inputs, H = s.units;
  Doubles gates(T * B * 4 * H), cs(T * B * H);
  a.hs.assign(T * B * H, 0);
  Doubles h = a.h0, c = a.c0;
  for (int64_t t = 0; t < T; ++t) {
    const int64_t at = s.time(t);
    Doubles h_next = h;
    for (int64_t r = 0; r < B; ++r)
      for (int64_t u = 0; u < H; ++u) {
        double z[4];
        for (int64_t g = 0; g < 4; ++g) {
          const int64_t column = g * H + u;
          z[g] = a.b[column];
          for (int64_t k = 0; k < D; ++k) z[g] += a.x[(at * B + r) * D + k] * a.w_x[k * 4 * H + column];
          for (int64_t k = 0; k < H; ++k) z[g] += h[r * H + k] * a.w_h[k * 4 * H + column];
        }
        double* kept = &gates[((at * B + r) * H + u) * 4];
        kept[0] = sigmoid(z[0]), kept[1] = sigmoid(z[1]), kept[2] = std::tanh(z[2]), kept[3] = sigmoid(z[3]);
        c[r * H + u] = kept[1] * c[r * H + u] + kept[0] * kept[2];
        cs[(at * B + r) * H + u] = c[r * H + u];
        h_next[r * H + u] = a.hs[(at * B + r) * H + u] = kept[3] * std::tanh(c[r * H + u]);
      }
    h = h_next;
  }
  a.h_end = h, a.c_end = c;

  Doubles d_h = a.d_h_end, d_c = a.d_c_end;
  a.d_x.assign(T * B * D, 0), a.d_wx.assign(D * 4 * H, 0), a.d_wh.assign(H * 4 * H, 0), a.d_b.assign(4 * H, 0);
  for (int64_t t = T - 1; t >= 0; --t) {
    const int64_t at = s.time(t), before = t ? s.time(t - 1) : 0;
    for (int64_t r = 0; r < B; ++r) {
      Doubles d_z(4 * H);
      for (int64_t u = 0; u < H; ++u) {
        const double* kept = &gates[((at * B + r) * H + u) * 4];
        const double squashed = std::tanh(cs[(at * B + r) * H + u]);
        const double c_before = t ? cs[(before * B + r) * H + u] : a.c0[r * H + u];
        const double d_out = d_h[r * H + u] + a.d_hs[(at * B + r) * H + u];
        const double d_cell = d_c[r * H + u] + d_out * kept[3] * (1 - squashed * squashed);
        d_z[u] = d_cell * kept[2] * kept[0] * (1 - kept[0]);
        d_z[H + u] = d_cell * c_before * kept[1] * (1 - kept[1]);
        d_z[2 * H + u] = d_cell * kept[0] * (1 - kept[2] * kept[2]);
        d_z[3 * H + u] = d_out * squashed * kept[3] * (1 - kept[3]);
        d_c[r * H + u] = d_cell * kept[1];
        d_h[r * H + u] = 0;
      }
      for (int64_t column = 0; column < 4 * H; ++column) {
        a.d_b[column] += d_z[column];
        for (int64_t k = 0; k < D; ++k) {
          a.d_x[(at * B + r) * D + k] += d_z[column] * a.w_x[k * 4 * H + column];
          a.d_wx[k * 4 * H + column] += d_z[column] * a.x[(at * B + r) * D + k];
        }
        for (int64_t k = 0; k < H; ++k) {
          const double h_before = t ? a.hs[(before * B + r) * H + k] : a.h0[r * H + k];
          d_h[r * H + k] += d_z[column] * a.w_h[k * 4 * H + column];
          a.d_wh[k * 4 * H + column] += d_z[column] * h_before;
        }
      }
    }
  }
  a.d_h0 = d_h, a.d_c0 = d_c;
}

}  // namespace plain

// Each cell over a sequence with its gradients, by plain loops in double precision: obviously right, for comparison.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "table.h"

namespace plain {

using Doubles = std::vector<double>;
using Bytes = std::vector<uint8_t>;

struct Arrays {
  Doubles x, w_x, w_h, b, b_hn, h0, c0, dropout, d_hs, d_h_end, d_c_end;            // What is given; some are empty,
  Bytes marks, keeps_h, keeps_c;
  Doubles hs, h_end, c_end, d_x, d_wx, d_wh, d_b, d_bhn, d_h0, d_c0;                // and what comes of it.
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One unit: from its pre-activations z and the part a of W_h to its new state.
struct Unit {
  std::string cell;
  double z[4] = {}, a = 0, h_before = 0, c_before = 0;  // a: of a GRU's candidate.
  double h = 0, c = 0;
  double d_z[4] = {}, d_a = 0, d_h = 0, d_c = 0;        // δ in, and what does not pass through W_h out.

  void forward() {
    if (cell == "lstm") {
      c = sigmoid(z[1]) * c_before + sigmoid(z[0]) * std::tanh(z[2]);
      h = sigmoid(z[3]) * std::tanh(c);
    } else if (cell == "gru" || cell == "gru_reset_before") {
      if (cell == "gru_reset_before") z[2] += a;
      const double u = sigmoid(z[1]);
      h = (1 - u) * std::tanh(z[2] + (cell == "gru" ? sigmoid(z[0]) * a : 0)) + u * h_before;
    } else {
      h = cell == "rnn_tanh" ? std::tanh(z[0]) : cell == "rnn_relu" && z[0] < 0 ? 0 : z[0];
    }
  }

  void backward() {
    if (cell == "lstm") {
      const double i = sigmoid(z[0]), f = sigmoid(z[1]), g = std::tanh(z[2]), o = sigmoid(z[3]), s = std::tanh(c);
      const double d_cell = d_c + d_h * o * (1 - s * s);
      d_z[0] = d_cell * g * i * (1 - i), d_z[1] = d_cell * c_before * f * (1 - f);
      d_z[2] = d_cell * i * (1 - g * g), d_z[3] = d_h * s * o * (1 - o);
      d_c = d_cell * f, d_h = 0;
    } else if (cell == "gru") {
      const double r = sigmoid(z[0]), u = sigmoid(z[1]), n = std::tanh(z[2] + r * a);
      d_z[2] = d_h * (1 - u) * (1 - n * n), d_a = d_z[2] * r, d_z[0] = d_z[2] * a * r * (1 - r);
      d_z[1] = d_h * (h_before - n) * u * (1 - u), d_h *= u;
    } else if (cell == "gru_reset_before") {
      const double u = sigmoid(z[1]), n = std::tanh(z[2]);
      d_z[2] = d_h * (1 - u) * (1 - n * n), d_z[1] = d_h * (h_before - n) * u * (1 - u), d_h *= u;
    } else {
      d_z[0] = d_h * (cell == "rnn_tanh" ? 1 - h * h : cell == "rnn_relu" ? h > 0 : 1), d_h = 0;
    }
  }
};

inline void run(const lstm_jax::Cell& cell, const lstm_jax::Sizes& s, Arrays& a) {
  using namespace lstm_jax;
  const int64_t T = s.steps, B = s.given_rows, D = s.inputs, H = s.units, G = cell.gates, R = s.rows;
  const std::string name = cell.name;
  const bool gru = name == "gru", resets_before = name == "gru_reset_before";
  std::vector<Unit> units(T * B * H);
  Doubles into(T * B * H), reset(T * B * H);  // h_{t-1} as W_h meets it, and r times it.
  a.hs.assign(T * B * H, 0);
  Doubles h = a.h0, c = a.c0;
  c.resize(B * H);
  const auto mark = [&](int64_t row) { return a.marks.empty() ? 0 : a.marks[row]; };
  for (int64_t t = 0; t < T; ++t)
    for (int64_t r = 0; r < B; ++r) {
      const int64_t row = s.time(t) * B + r;
      for (int64_t u = 0; u < H; ++u) {
        if (mark(row) & kReset) h[r * H + u] = c[r * H + u] = 0;
        into[row * H + u] = h[r * H + u] * (a.dropout.empty() ? 1 : a.dropout[row * H + u]);
      }
      for (int64_t u = 0; u < H; ++u) {
        Unit& unit = units[row * H + u];
        unit.cell = name, unit.h_before = h[r * H + u], unit.c_before = c[r * H + u];
        for (int64_t g = 0; g < G; ++g) {
          const int64_t column = g * H + u;
          double from_h = 0;
          unit.z[g] = a.b[column];
          for (int64_t k = 0; k < D; ++k) unit.z[g] += a.x[row * D + k] * a.w_x[k * G * H + column];
          for (int64_t k = 0; k < H; ++k) from_h += into[row * H + k] * a.w_h[k * G * H + column];
          if (gru && g == 2)
            unit.a = from_h + a.b_hn[u];
          else if (!(resets_before && g == 2))
            unit.z[g] += from_h;
        }
        reset[row * H + u] = sigmoid(unit.z[0]) * into[row * H + u];
      }
      for (int64_t u = 0; u < H; ++u) {
        for (int64_t k = 0; resets_before && k < H; ++k)
          units[row * H + u].a += reset[row * H + k] * a.w_h[k * G * H + 2 * H + u];
        units[row * H + u].forward();
      }
      for (int64_t u = 0; u < H; ++u) {
        const int64_t at = row * H + u;
        const bool passes = mark(row) & kPasses;
        if (!passes && !(a.keeps_c.size() && a.keeps_c[at])) c[r * H + u] = units[at].c;
        if (!passes && !(a.keeps_h.size() && a.keeps_h[at])) h[r * H + u] = units[at].h;
        a.hs[at] = mark(row) & kSilent ? 0 : h[r * H + u];
      }
    }
  a.h_end = h;
  if (cell.memory) a.c_end = c;

  const int64_t of_group = R / s.groups;
  Doubles d_h = a.d_h_end, d_c = a.d_c_end;
  d_c.resize(R * H);
  a.d_x.assign(T * R * D, 0), a.d_wx.assign(s.groups * D * G * H, 0), a.d_wh.assign(s.groups * H * G * H, 0);
  a.d_b.assign(s.groups * G * H, 0), a.d_bhn.assign(gru ? s.groups * H : 0, 0);
  for (int64_t t = T - 1; t >= 0; --t)
    for (int64_t r = 0; r < R; ++r) {
      const int64_t row = s.time(t) * B + r % B, row_d = s.time(t) * R + r, group = r / of_group;
      const bool passes = mark(row) & kPasses, silent = mark(row) & kSilent;
      Doubles through(H), d_reset(H);
      std::vector<Unit> now(&units[row * H], &units[row * H] + H);
      for (int64_t u = 0; u < H; ++u) {
        const int64_t at = row * H + u;
        Unit& unit = now[u];
        if (!silent) d_h[r * H + u] += a.d_hs[row_d * H + u];
        const double whole_h = d_h[r * H + u], whole_c = d_c[r * H + u];
        const bool keeps_h = passes || (a.keeps_h.size() && a.keeps_h[at]);
        const bool keeps_c = passes || (a.keeps_c.size() && a.keeps_c[at]);
        unit.d_h = keeps_h ? 0 : whole_h, unit.d_c = keeps_c ? 0 : whole_c;
        unit.backward();
        d_h[r * H + u] = unit.d_h + (keeps_h ? whole_h : 0), d_c[r * H + u] = unit.d_c + (keeps_c ? whole_c : 0);
        for (int64_t k = 0; resets_before && !passes && k < H; ++k)
          d_reset[k] += unit.d_z[2] * a.w_h[k * G * H + 2 * H + u];
      }
      for (int64_t u = 0; u < H && !passes; ++u) {
        Unit& unit = now[u];
        if (resets_before) {
          const double gate = sigmoid(unit.z[0]);
          unit.d_z[0] = d_reset[u] * unit.h_before * gate * (1 - gate);
          d_h[r * H + u] += d_reset[u] * gate;
        }
        for (int64_t g = 0; g < G; ++g) {
          const int64_t column = g * H + u;
          const double to_x = unit.d_z[g], to_h = gru && g == 2 ? unit.d_a : to_x;
          a.d_b[group * G * H + column] += to_x;
          if (gru && g == 2) a.d_bhn[group * H + u] += to_h;
          for (int64_t k = 0; k < D; ++k) {
            a.d_x[row_d * D + k] += to_x * a.w_x[k * G * H + column];
            a.d_wx[(group * D + k) * G * H + column] += to_x * a.x[row * D + k];
          }
          for (int64_t k = 0; k < H; ++k) {
            const bool first = resets_before && g == 2;
            if (!first) through[k] += to_h * a.w_h[k * G * H + column];
            a.d_wh[(group * H + k) * G * H + column] += to_h * (first ? reset : into)[row * H + k];
          }
        }
      }
      for (int64_t u = 0; u < H; ++u) {
        d_h[r * H + u] += through[u] * (a.dropout.empty() ? 1 : a.dropout[row * H + u]);
        if (mark(row) & (kReset | kCut)) d_h[r * H + u] = d_c[r * H + u] = 0;
      }
    }
  a.d_h0 = d_h;
  if (cell.memory) a.d_c0 = d_c;
}

}  // namespace plain

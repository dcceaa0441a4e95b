// What an instruction set offers: the same functions, compiled for it.
#pragma once

#include <cstdint>

#include "memory.h"
#include "team.h"

namespace lstm_jax {

struct Sizes {
  int64_t steps, rows, inputs, units;
  bool reverse;

  // The t-th step in the order of the loop.
  int64_t time(int64_t t) const { return reverse ? steps - 1 - t : t; }
};

// Arrays as JAX has them, row after row, and the residuals: gates[T, B, 4 · padded], cs[T, B, padded], with
// `padded` units from padded_units.
template <typename T>
struct LstmForward {
  const T *x, *w_x, *w_h, *b, *h0, *c0;
  T *hs, *h_end, *c_end;
  T *gates, *cs;  // Null where no gradient follows.
};

template <typename T>
struct LstmBackward {
  const T *x, *w_x, *w_h, *h0, *c0, *hs, *gates, *cs, *d_hs, *d_h_end, *d_c_end;
  T *d_x, *d_wx, *d_wh, *d_b, *d_h0, *d_c0;
};

template <typename T>
struct Functions {
  void (*lstm_forward)(const Sizes&, const LstmForward<T>&, Memory&, const Team&);
  void (*lstm_backward)(const Sizes&, const LstmBackward<T>&, Memory&, const Team&);
};

struct Table {
  const char* name;
  Functions<float> in_float;
  Functions<double> in_double;
};

// Residuals have one shape for every instruction set: units up to the next multiple of 16.
inline int64_t padded_units(int64_t units) { return (units + 15) / 16 * 16; }

}  // namespace lstm_jax

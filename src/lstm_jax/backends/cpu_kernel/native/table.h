// What an instruction set offers: the same two functions for every cell, compiled for it.
#pragma once

#include <cstdint>

#include "memory.h"
#include "team.h"

namespace lstm_jax {

struct Sizes {
  int64_t steps, rows;
  int64_t given_rows;  // Rows of the inputs: fewer than cotangents' where several cotangents have the same inputs.
  int64_t inputs, units;
  int64_t groups;  // Of rows, each with sums of its own for the weights.
  bool reverse;

  // The t-th step in the order of the loop.
  int64_t time(int64_t t) const { return reverse ? steps - 1 - t : t; }
};

// What lies between the steps of a row: bits of marks[T, B].
enum Mark : uint8_t {
  kPasses = 1,  // The step is none of the sequence's: the state passes on.
  kReset = 2,   // The state is zero before the step.
  kCut = 4,     // No gradient passes to the state before it.
  kSilent = 8,  // Its output is zero.
};

// Null where there is none.
template <typename T>
struct Masks {
  const uint8_t* marks;                // [T, B]
  const uint8_t *keeps_h, *keeps_c;    // [T, B, H]: zoneout; the unit keeps its state.
  const T* dropout;                    // [T, B, H]: the factor of h_{t-1} before W_h.
};

// Arrays of one network as JAX has them, row after row. `kept` are the cell's residuals, [T, B, kept · padded], with
// `padded` units from padded_units; null where no gradient follows, and in cells that need none.
template <typename T>
struct Inputs {
  const T *x, *w_x, *w_h, *b, *b_hn, *h0, *c0;  // b_hn of a GRU, c0 of an LSTM.
  Masks<T> masks;
};

template <typename T>
struct Outputs {
  T *hs, *h_end, *c_end, *kept;
};

template <typename T>
struct Cotangents {
  const T *hs, *kept;  // From the forward pass.
  const T *d_hs, *d_h_end, *d_c_end;
  T *d_x, *d_wx, *d_wh, *d_b, *d_bhn, *d_h0, *d_c0;  // Those of weights for each group.
};

template <typename T>
struct Functions {
  void (*forward)(const Sizes&, const Inputs<T>&, const Outputs<T>&, Memory&, const Team&);
  void (*backward)(const Sizes&, const Inputs<T>&, const Cotangents<T>&, Memory&, const Team&);
};

struct Cell {
  const char* name;
  int64_t gates;   // Of the columns of a weight: [D, gates · H].
  int64_t kept;    // Residuals of a unit and step.
  bool memory;     // Whether the state has C.
  bool hidden_bias;  // Whether there is a b_hn.
  Functions<float> in_float;
  Functions<double> in_double;
};

inline constexpr int kCells = 6;

struct Table {
  const char* name;
  Cell cells[kCells];
};

// Residuals have one shape for every instruction set: units up to the next multiple of 16.
inline int64_t padded_units(int64_t units) { return (units + 15) / 16 * 16; }

}  // namespace lstm_jax

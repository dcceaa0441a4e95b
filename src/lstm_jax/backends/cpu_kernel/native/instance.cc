// The functions for one instruction set; compiled once for each, with ISA, VECTOR_BYTES and MOST_ROWS.
#include "lstm.h"

#define LSTM_JAX_JOIN(a, b) a##b
#define LSTM_JAX_NAMED(isa) LSTM_JAX_JOIN(lstm_jax_table_, isa)
#define LSTM_JAX_TEXT_OF(a) #a
#define LSTM_JAX_TEXT(a) LSTM_JAX_TEXT_OF(a)

namespace lstm_jax {

extern "C" const Table* LSTM_JAX_NAMED(ISA)();

extern "C" const Table* LSTM_JAX_NAMED(ISA)() {
  static const Table table{LSTM_JAX_TEXT(ISA),
                           {&ISA::Lstm<float>::forward, &ISA::Lstm<float>::backward},
                           {&ISA::Lstm<double>::forward, &ISA::Lstm<double>::backward}};
  return &table;
}

}  // namespace lstm_jax

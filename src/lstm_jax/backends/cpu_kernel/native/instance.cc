// The functions for one instruction set; compiled once for each, with ISA, VECTOR_BYTES and MOST_ROWS.
#include "backward.h"
#include "forward.h"

#define LSTM_JAX_JOIN(a, b) a##b
#define LSTM_JAX_NAMED(isa) LSTM_JAX_JOIN(lstm_jax_table_, isa)
#define LSTM_JAX_TEXT_OF(a) #a
#define LSTM_JAX_TEXT(a) LSTM_JAX_TEXT_OF(a)

namespace lstm_jax {
namespace {

template <template <typename> class OfNumber>
constexpr Cell cell(const char* name) {
  using F = OfNumber<float>;
  using D = OfNumber<double>;
  return Cell{name,
              F::kGates,
              F::kKept,
              F::kMemory,
              F::kHiddenBias,
              {&ISA::forward<F>, &ISA::backward<F>},
              {&ISA::forward<D>, &ISA::backward<D>}};
}

template <typename T>
using Tanh = ISA::RnnCell<T, ISA::Phi::kTanh>;
template <typename T>
using Relu = ISA::RnnCell<T, ISA::Phi::kRelu>;
template <typename T>
using Identity = ISA::RnnCell<T, ISA::Phi::kIdentity>;

}  // namespace

extern "C" const Table* LSTM_JAX_NAMED(ISA)();

extern "C" const Table* LSTM_JAX_NAMED(ISA)() {
  static const Table table{LSTM_JAX_TEXT(ISA),
                           {cell<ISA::LstmCell>("lstm"), cell<ISA::GruCell>("gru"), cell<ISA::ResetBeforeGruCell>("gru_reset_before"),
                            cell<Tanh>("rnn_tanh"),
                            cell<Relu>("rnn_relu"), cell<Identity>("rnn_identity")}};
  return &table;
}

}  // namespace lstm_jax

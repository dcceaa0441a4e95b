// What XLA calls: handlers of its foreign function interface, and the choice of the instruction set.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "machine.h"
#include "table.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

extern "C" {
#if defined(__x86_64__) || defined(_M_X64)
const lstm_jax::Table* lstm_jax_table_avx512();
const lstm_jax::Table* lstm_jax_table_avx2();
#elif defined(__aarch64__)
const lstm_jax::Table* lstm_jax_table_neon();
#endif
const lstm_jax::Table* lstm_jax_table_plain();
}

#if defined(_WIN32)
#define LSTM_JAX_EXPORT extern "C" __declspec(dllexport)
#else
#define LSTM_JAX_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace lstm_jax {
namespace {

// The best that this machine has; LSTM_JAX_INSTRUCTIONS names another one that it has.
const Table* chosen_table() {
  const char* asked = std::getenv("LSTM_JAX_INSTRUCTIONS");
  const std::string wanted = asked == nullptr ? "" : asked;
  auto fits = [&](const char* name) { return wanted.empty() || wanted == name; };
#if defined(__x86_64__) || defined(_M_X64)
  const Machine machine = this_machine();
  if (fits("avx512") && machine.avx512) return lstm_jax_table_avx512();
  if (fits("avx2") && machine.avx2) return lstm_jax_table_avx2();
#elif defined(__aarch64__)
  if (fits("neon")) return lstm_jax_table_neon();
#endif
  return lstm_jax_table_plain();
}

const Table& table() {
  static const Table* found = chosen_table();
  return *found;
}

// Threads at most; LSTM_JAX_THREADS sets fewer.
int64_t most_threads() {
  const char* asked = std::getenv("LSTM_JAX_THREADS");
  const long count = asked == nullptr ? 0 : std::strtol(asked, nullptr, 10);
  return count > 0 ? count : 1 << 20;
}

Memory& own_memory() {
  static thread_local Memory memory;
  return memory;
}

Team team_of(ffi::ThreadPool& pool) {
  static const int64_t most = most_threads();
  // XLA's pool has a thread for each core that the process may use; the caller is one of its threads, or waits.
  const int64_t threads = std::min<int64_t>(std::max<int64_t>(pool.num_threads(), 1), most);
  return Team(threads, [&pool](std::function<void()> work) { pool.Schedule(std::move(work)); });
}

bool has_shape(const ffi::AnyBuffer& buffer, std::initializer_list<int64_t> shape) {
  const auto dims = buffer.dimensions();
  return dims.size() == shape.size() && std::equal(shape.begin(), shape.end(), dims.begin());
}

// The sizes of a call, from x[T, B, D] and w_h[H, 4H]; false where they are none.
bool sizes_of(const ffi::AnyBuffer& x, const ffi::AnyBuffer& w_h, bool reverse, Sizes* sizes) {
  if (x.dimensions().size() != 3 || w_h.dimensions().size() != 2) return false;
  *sizes = Sizes{x.dimensions()[0], x.dimensions()[1], x.dimensions()[2], w_h.dimensions()[0], reverse};
  return sizes->steps > 0 && sizes->rows > 0 && sizes->inputs > 0 && sizes->units > 0;
}

template <typename F>
ffi::Error in_dtype(ffi::DataType dtype, F&& work) {
  try {
    if (dtype == ffi::DataType::F32)
      work(float(), table().in_float);
    else if (dtype == ffi::DataType::F64)
      work(double(), table().in_double);
    else
      return ffi::Error::InvalidArgument("Dtype mismatch: expected float32 or float64 in the CPU kernel.");
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "Out of memory: expected room for the workspace of the CPU kernel.");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
  return ffi::Error::Success();
}

ffi::Error shape_error(const char* what) {
  return ffi::Error::InvalidArgument(std::string("Shape mismatch: expected arrays of one network in the CPU kernel, got ") + what);
}

// ---- the LSTM ----

using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

ffi::Error lstm_forward(ffi::ThreadPool pool, Buffer x, Buffer w_x, Buffer w_h, Buffer b, Buffer h0, Buffer c0, Result hs,
                        Result h_end, Result c_end, Result gates, Result cs, bool reverse) {
  Sizes s;
  if (!sizes_of(x, w_h, reverse, &s)) return shape_error("sizes that are not positive.");
  const int64_t T = s.steps, B = s.rows, D = s.inputs, H = s.units;
  const bool keeps = gates->element_count() > 1;
  if (!has_shape(w_x, {D, 4 * H}) || !has_shape(w_h, {H, 4 * H}) || !has_shape(b, {4 * H}) || !has_shape(h0, {B, H}) ||
      !has_shape(c0, {B, H}) || !has_shape(*hs, {T, B, H}))
    return shape_error("others.");
  if (keeps && (!has_shape(*gates, {T, B, 4 * padded_units(H)}) || !has_shape(*cs, {T, B, padded_units(H)})))
    return shape_error("other residuals.");
  return in_dtype(x.element_type(), [&](auto zero, const auto& functions) {
    using N = decltype(zero);
    const LstmForward<N> arrays{
        x.typed_data<N>(),  w_x.typed_data<N>(), w_h.typed_data<N>(), b.typed_data<N>(), h0.typed_data<N>(), c0.typed_data<N>(),
        hs->typed_data<N>(), h_end->typed_data<N>(), c_end->typed_data<N>(), keeps ? gates->typed_data<N>() : nullptr,
        keeps ? cs->typed_data<N>() : nullptr};
    functions.lstm_forward(s, arrays, own_memory(), team_of(pool));
  });
}

ffi::Error lstm_backward(ffi::ThreadPool pool, Buffer x, Buffer w_x, Buffer w_h, Buffer h0, Buffer c0, Buffer hs, Buffer gates,
                         Buffer cs, Buffer d_hs, Buffer d_h_end, Buffer d_c_end, Result d_x, Result d_wx, Result d_wh, Result d_b,
                         Result d_h0, Result d_c0, bool reverse) {
  Sizes s;
  if (!sizes_of(x, w_h, reverse, &s)) return shape_error("sizes that are not positive.");
  const int64_t T = s.steps, B = s.rows, D = s.inputs, H = s.units;
  if (!has_shape(w_x, {D, 4 * H}) || !has_shape(w_h, {H, 4 * H}) || !has_shape(hs, {T, B, H}) || !has_shape(d_hs, {T, B, H}) ||
      !has_shape(gates, {T, B, 4 * padded_units(H)}) || !has_shape(cs, {T, B, padded_units(H)}))
    return shape_error("others.");
  return in_dtype(x.element_type(), [&](auto zero, const auto& functions) {
    using N = decltype(zero);
    const LstmBackward<N> arrays{
        x.typed_data<N>(),     w_x.typed_data<N>(),  w_h.typed_data<N>(),   h0.typed_data<N>(),      c0.typed_data<N>(),
        hs.typed_data<N>(),    gates.typed_data<N>(), cs.typed_data<N>(),   d_hs.typed_data<N>(),    d_h_end.typed_data<N>(),
        d_c_end.typed_data<N>(), d_x->typed_data<N>(), d_wx->typed_data<N>(), d_wh->typed_data<N>(), d_b->typed_data<N>(),
        d_h0->typed_data<N>(), d_c0->typed_data<N>()};
    functions.lstm_backward(s, arrays, own_memory(), team_of(pool));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER(LstmForwardHandler, lstm_forward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER(LstmBackwardHandler, lstm_backward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>()
                           .Attr<bool>("reverse"));

}  // namespace lstm_jax

LSTM_JAX_EXPORT XLA_FFI_Error* lstm_jax_lstm_forward(XLA_FFI_CallFrame* frame) {
  return lstm_jax::LstmForwardHandler(frame);
}
LSTM_JAX_EXPORT XLA_FFI_Error* lstm_jax_lstm_backward(XLA_FFI_CallFrame* frame) {
  return lstm_jax::LstmBackwardHandler(frame);
}
LSTM_JAX_EXPORT const char* lstm_jax_instruction_set() { return lstm_jax::table().name; }

// What XLA calls: handlers of its foreign function interface, and the choice of the instruction set.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "machine.h"
#include "operands.h"

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
  const char* given = std::getenv("LSTM_JAX_THREADS");
  const std::string asked = given == nullptr ? "" : given;
  const bool number = !asked.empty() && asked.size() < 10 && asked.find_first_not_of("0123456789") == std::string::npos;
  const long count = number ? std::strtol(asked.c_str(), nullptr, 10) : 0;
  return count > 0 ? count : 1 << 20;
}

// XLA's pool has a thread for each core that the process may use; the caller is one of its threads, or waits.
int64_t threads_of(const ffi::ThreadPool& pool) {
  static const int64_t most = most_threads();
  return std::min<int64_t>(std::max<int64_t>(pool.num_threads(), 1), most);
}

Memory& own_memory() {
  static thread_local Memory memory;
  return memory;
}

// Calls f(network, memory, team) for each: where there are as many networks as threads, each by one thread.
template <typename F>
void for_networks(int64_t networks, ffi::ThreadPool& pool, F&& f) {
  const Team team(threads_of(pool), [&pool](std::function<void()> work) { pool.Schedule(std::move(work)); });
  if (networks < team.threads()) {
    const Memory::Lease lease{own_memory()};
    for (int64_t n = 0; n < networks; ++n) f(n, lease.memory, team);
    return;
  }
  const Team alone;
  std::exception_ptr failed;
  std::mutex mutex;
  team.run(networks, [&](int64_t n) {
    try {
      const Memory::Lease lease{own_memory()};
      f(n, lease.memory, alone);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      failed = std::current_exception();
    }
  });
  if (failed) std::rethrow_exception(failed);
}

template <typename T>
const Functions<T>& functions_of(const Cell& cell) {
  if constexpr (std::is_same_v<T, float>)
    return cell.in_float;
  else
    return cell.in_double;
}

template <typename T>
void run_forward(const Cell& cell, ffi::ThreadPool& pool, Arrays& arrays, const Options& options) {
  const Given<T> given(arrays, cell, options);
  const int64_t steps = given.sizes.steps, B = given.sizes.rows, H = given.sizes.units;
  const auto hs = arrays.give<T>(0, {steps, B, H});
  const auto h_end = arrays.give<T>(1, {B, H}), c_end = arrays.give<T>(2, {B, H}, !cell.memory);
  const auto kept = arrays.give<T>(3, {steps, B, cell.kept * padded_units(H)}, true);
  const auto made = arrays.give<T>(4, {});
  for_networks(options.networks, pool, [&](int64_t n, Memory& memory, const Team& team) {
    functions_of<T>(cell).forward(given.sizes, given.of(n), {hs.of(n), h_end.of(n), c_end.of(n), kept.of(n)}, memory,
                                  team);
    *made.of(n) = T(kept.data != nullptr || cell.kept == 0);
  });
}

template <typename T>
void run_backward(const Cell& cell, ffi::ThreadPool& pool, Arrays& arrays, const Options& options) {
  const Given<T> given(arrays, cell, options);
  const int64_t groups = options.groups;
  const int64_t steps = given.sizes.steps, given_rows = given.sizes.rows, D = given.sizes.inputs, H = given.sizes.units;
  const int64_t Z = cell.gates * H;
  const bool memory_state = cell.memory;
  const auto hs = arrays.take<T>(11, {steps, given_rows, H});
  const auto kept = arrays.take<T>(12, {steps, given_rows, cell.kept * padded_units(H)}, cell.kept == 0);
  const auto made = arrays.take<T>(13, {});
  const auto shape = arrays.argument(14).dimensions();
  const int64_t B = shape.size() == 4 ? shape[2] : 0;
  if (B < 1 || B % given_rows != 0 || groups < 1 || B % groups != 0)
    throw WrongArrays("expected cotangents of whole batches, got " + joined(shape) + ".");
  const auto d_hs = arrays.take<T>(14, {steps, B, H}), d_h_end = arrays.take<T>(15, {B, H});
  const auto d_c_end = arrays.take<T>(16, {B, H}, !memory_state);
  const auto d_x = arrays.give<T>(0, {steps, B, D}), d_wx = arrays.give<T>(1, {groups, D, Z});
  const auto d_wh = arrays.give<T>(2, {groups, H, Z}), d_b = arrays.give<T>(3, {groups, Z});
  const auto d_bhn = arrays.give<T>(4, {groups, H}, !cell.hidden_bias);
  const auto d_h0 = arrays.give<T>(5, {B, H}), d_c0 = arrays.give<T>(6, {B, H}, !memory_state);
  for_networks(options.networks, pool, [&](int64_t n, Memory& memory, const Team& team) {
    Sizes sizes = given.sizes;
    const T* residuals = kept.of(n);
    Memory again;
    if (cell.kept != 0 && *made.of(n) == T(0)) {
      // The forward pass ran elsewhere, by another program: its residuals are made here.
      again.reserve(Memory::bytes<T>(given.kept(cell)) + Memory::bytes<T>(steps * given_rows * H) +
                    2 * Memory::bytes<T>(given_rows * H));
      T* own = again.take<T>(given.kept(cell));
      const Outputs<T> outputs{again.take<T>(steps * given_rows * H), again.take<T>(given_rows * H),
                               again.take<T>(given_rows * H), own};
      functions_of<T>(cell).forward(sizes, given.of(n), outputs, memory, team);
      residuals = own;
    }
    sizes.rows = B;
    sizes.groups = groups;
    const Cotangents<T> cotangents{hs.of(n),  residuals, d_hs.of(n), d_h_end.of(n), d_c_end.of(n), d_x.of(n), d_wx.of(n),
                                   d_wh.of(n), d_b.of(n), d_bhn.of(n), d_h0.of(n),  d_c0.of(n)};
    functions_of<T>(cell).backward(sizes, given.of(n), cotangents, memory, team);
  });
}

// Calls work(zero of the dtype, cell), and says in one sentence what went wrong.
template <typename F>
ffi::Error guarded(const Arrays& arrays, std::string_view name, F&& work) {
  try {
    const Cell* cell = nullptr;
    for (const Cell& one : table().cells)
      if (name == one.name) cell = &one;
    if (cell == nullptr) throw WrongArrays("expected a cell that it has, got " + std::string(name) + ".");
    const ffi::DataType dtype = arrays.argument(0).element_type();
    if (dtype == ffi::DataType::F32)
      work(float(), *cell);
    else if (dtype == ffi::DataType::F64)
      work(double(), *cell);
    else
      throw WrongArrays("expected float32 or float64, got another dtype.");
  } catch (const WrongArrays& error) {
    return ffi::Error::InvalidArgument(error.what());
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "Out of memory: expected room for the workspace of the CPU kernel, got none.");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, std::string_view cell,
                   int64_t networks, bool reverse) {
  Arrays arrays(args, rets);
  return guarded(arrays, cell, [&](auto zero, const Cell& found) {
    run_forward<decltype(zero)>(found, pool, arrays, {networks, 1, reverse});
  });
}

ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, std::string_view cell,
                    int64_t networks, int64_t groups, bool reverse) {
  Arrays arrays(args, rets);
  return guarded(arrays, cell, [&](auto zero, const Cell& found) {
    run_backward<decltype(zero)>(found, pool, arrays, {networks, groups, reverse});
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER(ForwardHandler, forward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets()
                           .Attr<std::string_view>("cell")
                           .Attr<int64_t>("networks")
                           .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER(BackwardHandler, backward,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .RemainingArgs()
                           .RemainingRets()
                           .Attr<std::string_view>("cell")
                           .Attr<int64_t>("networks")
                           .Attr<int64_t>("groups")
                           .Attr<bool>("reverse"));

}  // namespace lstm_jax

LSTM_JAX_EXPORT XLA_FFI_Error* lstm_jax_forward(XLA_FFI_CallFrame* frame) { return lstm_jax::ForwardHandler(frame); }
LSTM_JAX_EXPORT XLA_FFI_Error* lstm_jax_backward(XLA_FFI_CallFrame* frame) { return lstm_jax::BackwardHandler(frame); }
// Of the arguments above; `library.py` has the same number.
LSTM_JAX_EXPORT int lstm_jax_interface() { return 2; }
LSTM_JAX_EXPORT const char* lstm_jax_instruction_set() { return lstm_jax::table().name; }

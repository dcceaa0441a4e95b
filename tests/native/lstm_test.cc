// The LSTM of one instruction set against plain loops: sizes around those of vectors, tiles and sums, one and
// several threads. Every array has its exact size, so that the address sanitizer sees a step beyond it.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <random>
#include <thread>

#include "plain_lstm.h"

#define JOIN(a, b) a##b
#define NAMED(isa) JOIN(lstm_jax_table_, isa)

extern "C" const lstm_jax::Table* NAMED(ISA)();

namespace {

using lstm_jax::Memory;
using lstm_jax::Sizes;
using lstm_jax::Team;

int failures = 0;

template <typename T>
struct Found {
  std::vector<T> hs, h_end, c_end, hs_alone, d_x, d_wx, d_wh, d_b, d_h0, d_c0;

  template <typename F>
  void each(F&& f) {
    f("hs", hs), f("h_end", h_end), f("c_end", c_end), f("hs without residuals", hs_alone), f("d_x", d_x);
    f("d_wx", d_wx), f("d_wh", d_wh), f("d_b", d_b), f("d_h0", d_h0), f("d_c0", d_c0);
  }
};

const lstm_jax::Functions<float>& functions(float) { return NAMED(ISA)()->in_float; }
const lstm_jax::Functions<double>& functions(double) { return NAMED(ISA)()->in_double; }

template <typename T>
std::vector<T> as(const plain::Doubles& from) {
  return std::vector<T>(from.begin(), from.end());
}

// Whatever was in an output before must not count.
template <typename T>
std::vector<T> rubbish(int64_t count) {
  return std::vector<T>(count, std::numeric_limits<T>::quiet_NaN());
}

template <typename T>
Found<T> run(const Sizes& s, const plain::Arrays& a, int64_t threads) {
  const int64_t tb = s.steps * s.rows, bh = s.rows * s.units, padded = lstm_jax::padded_units(s.units);
  std::vector<std::thread> started;
  const Team team(threads, [&](std::function<void()> work) { started.emplace_back(std::move(work)); });
  Memory memory;
  Found<T> f;
  const auto x = as<T>(a.x), w_x = as<T>(a.w_x), w_h = as<T>(a.w_h), b = as<T>(a.b), h0 = as<T>(a.h0);
  const auto c0 = as<T>(a.c0), d_hs = as<T>(a.d_hs), d_h_end = as<T>(a.d_h_end), d_c_end = as<T>(a.d_c_end);
  f.hs = rubbish<T>(tb * s.units), f.hs_alone = f.hs;
  f.h_end = rubbish<T>(bh), f.c_end = f.h_end, f.d_h0 = f.h_end, f.d_c0 = f.h_end;
  f.d_x = rubbish<T>(tb * s.inputs), f.d_wx = rubbish<T>(s.inputs * 4 * s.units);
  f.d_wh = rubbish<T>(s.units * 4 * s.units), f.d_b = rubbish<T>(4 * s.units);
  auto gates = rubbish<T>(tb * 4 * padded), cs = rubbish<T>(tb * padded);
  lstm_jax::LstmForward<T> forward{};
  forward.x = x.data(), forward.w_x = w_x.data(), forward.w_h = w_h.data(), forward.b = b.data();
  forward.h0 = h0.data(), forward.c0 = c0.data();
  forward.hs = f.hs_alone.data(), forward.h_end = f.h_end.data(), forward.c_end = f.c_end.data();
  functions(T()).lstm_forward(s, forward, memory, team);
  forward.hs = f.hs.data(), forward.gates = gates.data(), forward.cs = cs.data();
  functions(T()).lstm_forward(s, forward, memory, team);
  lstm_jax::LstmBackward<T> backward{};
  backward.x = x.data(), backward.w_x = w_x.data(), backward.w_h = w_h.data(), backward.h0 = h0.data();
  backward.c0 = c0.data(), backward.hs = f.hs.data(), backward.gates = gates.data(), backward.cs = cs.data();
  backward.d_hs = d_hs.data(), backward.d_h_end = d_h_end.data(), backward.d_c_end = d_c_end.data();
  backward.d_x = f.d_x.data(), backward.d_wx = f.d_wx.data(), backward.d_wh = f.d_wh.data();
  backward.d_b = f.d_b.data(), backward.d_h0 = f.d_h0.data(), backward.d_c0 = f.d_c0.data();
  functions(T()).lstm_backward(s, backward, memory, team);
  for (auto& thread : started) thread.join();
  return f;
}

// Numbers as the network has them in float: the reference reads what the kernel reads.
plain::Doubles draw(std::mt19937& random, int64_t count, double size) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  plain::Doubles found(count);
  for (double& value : found) value = float(size * uniform(random));
  return found;
}

plain::Arrays draw_all(const Sizes& s, double size) {
  std::mt19937 random(int(s.steps * 7919 + s.rows * 104729 + s.inputs * 1299709 + s.units));
  const int64_t tb = s.steps * s.rows, bh = s.rows * s.units;
  const double w = 1 / std::sqrt(double(s.units + s.inputs));
  plain::Arrays a;
  a.x = draw(random, tb * s.inputs, size), a.w_x = draw(random, s.inputs * 4 * s.units, 2 * w);
  a.w_h = draw(random, s.units * 4 * s.units, 2 * w), a.b = draw(random, 4 * s.units, 1);
  a.h0 = draw(random, bh, 1), a.c0 = draw(random, bh, 1), a.d_hs = draw(random, tb * s.units, 1);
  a.d_h_end = draw(random, bh, 1), a.d_c_end = draw(random, bh, 1);
  // Large sums without rounding, so that they say no less than small ones.
  if (size > 1) {
    for (double& value : a.x) value = std::round(value);
    for (double& value : a.w_x) value = std::round(64 * value) / 64;
  }
  return a;
}

template <typename T>
void say_wrong(const Sizes& s, const char* what, double error) {
  ++failures;
  std::printf("%s, %d bits, T=%ld B=%ld D=%ld H=%ld%s: %s is off by %.3g\n", NAMED(ISA)()->name, int(8 * sizeof(T)),
              long(s.steps), long(s.rows), long(s.inputs), long(s.units), s.reverse ? " reversed" : "", what, error);
}

// The largest difference, in units of the largest number; infinite where one is a NaN and the other is not.
template <typename T>
double difference(const std::vector<T>& found, const plain::Doubles& right) {
  if (found.size() != right.size()) return std::numeric_limits<double>::infinity();
  double most = 0, scale = 1;
  for (double value : right)
    if (std::isfinite(value)) scale = std::max(scale, std::abs(value));
  for (size_t n = 0; n < found.size(); ++n) {
    if (std::isnan(right[n]) && std::isnan(found[n])) continue;
    const double error = std::abs(double(found[n]) - right[n]) / scale;
    most = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(most, error);
  }
  return most;
}

template <typename T>
void check(const Sizes& s, double size, bool with_nan = false) {
  plain::Arrays a = draw_all(s, size);
  // In the last row of the first step: its numbers are NaN, and those of the other rows are not.
  if (with_nan) a.x[(s.time(0) * s.rows + s.rows - 1) * s.inputs] = std::numeric_limits<double>::quiet_NaN();
  plain::lstm(s, a);
  plain::Doubles* rights[] = {&a.hs, &a.h_end, &a.c_end, &a.hs, &a.d_x, &a.d_wx, &a.d_wh, &a.d_b, &a.d_h0, &a.d_c0};
  const double allowed = 64 * double(std::numeric_limits<T>::epsilon());
  Found<T> alone = run<T>(s, a, 1), together = run<T>(s, a, 3);
  std::vector<std::vector<T>> firsts;
  int n = 0;
  alone.each([&](const char* what, const std::vector<T>& found) {
    const double error = difference(found, *rights[n++]);
    if (!(error <= allowed)) say_wrong<T>(s, what, error);
    firsts.push_back(found);
  });
  n = 0;
  together.each([&](const char* what, const std::vector<T>& found) {
    const std::vector<T>& first = firsts[n++];
    const auto same = [](T a, T b) { return a == b || (std::isnan(a) && std::isnan(b)); };
    if (!std::equal(found.begin(), found.end(), first.begin(), same)) say_wrong<T>(s, what, 0);
  });
}

}  // namespace

int main() {
  int count = 0;
  const int64_t units[] = {1, 2, 7, 8, 9, 16, 17, 33};
  const auto both = [&](const Sizes& s, double size, bool with_nan = false) {
    check<float>(s, size, with_nan), check<double>(s, size, with_nan), ++count;
  };
  for (int64_t H : units)
    for (int64_t B : {1, 2, 5, 6, 7, 13}) both({3, B, (H * 5 + B) % 19 + 1, H, B % 2 == 0}, 1);
  for (int64_t T : {1, 2, 37})
    for (bool reverse : {false, true}) both({T, 3, 4, 5, reverse}, 1);
  both({1, 1, 1, 1, false}, 1);
  both({300, 1, 3, 4, false}, 1);    // More steps than one sum over time has,
  both({3, 300, 3, 4, true}, 1);     // more rows,
  both({5, 60, 130, 70, false}, 1);  // and more of everything than one tile.
  both({4, 3, 5, 9, false}, 1e3);    // Saturated gates.
  for (int64_t H : units) both({4, 3, 5, H, false}, 1, true);
  std::printf("%s: %d sizes in both precisions, %d failures\n", NAMED(ISA)()->name, count, failures);
  return failures ? 1 : 0;
}

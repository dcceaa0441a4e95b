// The cells of one instruction set against plain loops: sizes around those of vectors, tiles and sums, masks between
// the steps, one and several threads. Every array has its exact size, so that the address sanitizer sees a step beyond it.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <random>
#include <thread>

#include "plain_cells.h"

#define JOIN(a, b) a##b
#define NAMED(isa) JOIN(lstm_jax_table_, isa)

extern "C" const lstm_jax::Table* NAMED(ISA)();

namespace {

using lstm_jax::Cell;
using lstm_jax::Memory;
using lstm_jax::Sizes;
using lstm_jax::Team;

int failures = 0;

struct Case {
  const Cell& cell;
  Sizes sizes;
  bool masks = false, noise = false, with_nan = false;
  double size = 1;
};

template <typename T>
struct Found {
  std::vector<T> hs, h_end, c_end, hs_alone, d_x, d_wx, d_wh, d_b, d_bhn, d_h0, d_c0;

  template <typename F>
  void each(F&& f) {
    f("hs", hs), f("h_end", h_end), f("c_end", c_end), f("hs without residuals", hs_alone), f("d_x", d_x);
    f("d_wx", d_wx), f("d_wh", d_wh), f("d_b", d_b), f("d_bhn", d_bhn), f("d_h0", d_h0), f("d_c0", d_c0);
  }
};

const lstm_jax::Functions<float>& functions(const Cell& cell, float) { return cell.in_float; }
const lstm_jax::Functions<double>& functions(const Cell& cell, double) { return cell.in_double; }

template <typename T>
std::vector<T> as(const plain::Doubles& from) {
  return std::vector<T>(from.begin(), from.end());
}

template <typename T>
T* start(std::vector<T>& of) {
  return of.empty() ? nullptr : of.data();
}

// Whatever was in an output before must not count.
template <typename T>
std::vector<T> rubbish(int64_t count) {
  return std::vector<T>(count, std::numeric_limits<T>::quiet_NaN());
}

template <typename T>
Found<T> run(const Case& one, plain::Arrays& a, int64_t threads) {
  const Cell& cell = one.cell;
  const Sizes& s = one.sizes;
  const int64_t given = s.steps * s.given_rows, tb = s.steps * s.rows, bh = s.given_rows * s.units, Z = cell.gates * s.units;
  const int64_t ends = s.rows * s.units, padded = lstm_jax::padded_units(s.units);
  std::vector<std::thread> started;
  Found<T> f;
  {
    const Team team(threads, [&](std::function<void()> work) { started.emplace_back(std::move(work)); });
    Memory memory;
    auto x = as<T>(a.x), w_x = as<T>(a.w_x), w_h = as<T>(a.w_h), b = as<T>(a.b), b_hn = as<T>(a.b_hn), h0 = as<T>(a.h0);
    auto c0 = as<T>(a.c0), dropout = as<T>(a.dropout), d_hs = as<T>(a.d_hs), d_h_end = as<T>(a.d_h_end);
    auto d_c_end = as<T>(a.d_c_end);
    f.hs = rubbish<T>(given * s.units), f.hs_alone = f.hs, f.h_end = rubbish<T>(bh), f.d_h0 = rubbish<T>(ends);
    if (cell.memory) f.c_end = f.h_end, f.d_c0 = f.d_h0;
    f.d_x = rubbish<T>(tb * s.inputs), f.d_wx = rubbish<T>(s.groups * s.inputs * Z);
    f.d_wh = rubbish<T>(s.groups * s.units * Z), f.d_b = rubbish<T>(s.groups * Z);
    if (cell.hidden_bias) f.d_bhn = rubbish<T>(s.groups * s.units);
    auto kept = rubbish<T>(given * cell.kept * padded);
    const lstm_jax::Inputs<T> in{x.data(), w_x.data(), w_h.data(), b.data(), start(b_hn), h0.data(), start(c0),
                                 {start(a.marks), start(a.keeps_h), start(a.keeps_c), start(dropout)}};
    Sizes forward = s;
    forward.rows = s.given_rows, forward.groups = 1;
    functions(cell, T()).forward(forward, in, {f.hs_alone.data(), f.h_end.data(), start(f.c_end), nullptr}, memory, team);
    functions(cell, T()).forward(forward, in, {f.hs.data(), f.h_end.data(), start(f.c_end), start(kept)}, memory, team);
    functions(cell, T()).backward(s, in,
                                  {f.hs.data(), start(kept), d_hs.data(), d_h_end.data(), start(d_c_end), f.d_x.data(),
                                   f.d_wx.data(), f.d_wh.data(), f.d_b.data(), start(f.d_bhn), f.d_h0.data(), start(f.d_c0)},
                                  memory, team);
  }
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

plain::Arrays draw_all(const Case& one) {
  const Sizes& s = one.sizes;
  const Cell& cell = one.cell;
  std::mt19937 random(int(s.steps * 7919 + s.rows * 104729 + s.inputs * 1299709 + s.units));
  const int64_t given = s.steps * s.given_rows, tb = s.steps * s.rows, bh = s.given_rows * s.units, Z = cell.gates * s.units;
  const double w = 1 / std::sqrt(double(s.units + s.inputs));
  plain::Arrays a;
  a.x = draw(random, given * s.inputs, one.size), a.w_x = draw(random, s.inputs * Z, 2 * w);
  a.w_h = draw(random, s.units * Z, 2 * w), a.b = draw(random, Z, 1);
  a.h0 = draw(random, bh, 1), a.d_hs = draw(random, tb * s.units, 1), a.d_h_end = draw(random, s.rows * s.units, 1);
  if (cell.hidden_bias) a.b_hn = draw(random, s.units, 1);
  if (cell.memory) a.c0 = draw(random, bh, 1), a.d_c_end = draw(random, s.rows * s.units, 1);
  // Large sums without rounding, so that they say no less than small ones.
  if (one.size > 1) {
    for (double& value : a.x) value = std::round(value);
    for (double& value : a.w_x) value = std::round(64 * value) / 64;
  }
  const auto bytes = [&](int64_t count, int percent) {
    plain::Bytes found(count);
    for (uint8_t& byte : found) byte = int(random() % 100) < percent;
    return found;
  };
  if (one.masks) {
    a.marks = plain::Bytes(given);
    for (uint8_t& mark : a.marks) {
      const int kind = int(random() % 6);
      mark = kind == 0   ? lstm_jax::kPasses
             : kind == 1 ? lstm_jax::kReset
             : kind == 2 ? lstm_jax::kCut
             : kind == 3 ? lstm_jax::kReset | lstm_jax::kCut
                         : 0;
    }
    // Past the end of the last row nothing comes out.
    const int64_t last = s.given_rows - 1;
    for (int64_t t = s.steps - s.steps / 3; t < s.steps; ++t)
      a.marks[s.time(t) * s.given_rows + last] = lstm_jax::kPasses | lstm_jax::kSilent;
  }
  if (one.noise) {
    a.keeps_h = bytes(given * s.units, 40);
    if (std::string(cell.name) != "gru_reset_before") a.dropout = draw(random, given * s.units, 2);
    if (cell.memory) a.keeps_c = bytes(given * s.units, 40);
  }
  return a;
}

template <typename T>
void say_wrong(const Case& one, const char* what, double error) {
  const Sizes& s = one.sizes;
  ++failures;
  std::printf("%s, %s, %d bits, T=%ld B=%ld D=%ld H=%ld%s: %s is off by %.3g\n", NAMED(ISA)()->name, one.cell.name, int(8 * sizeof(T)),
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
void check(const Case& one) {
  plain::Arrays a = draw_all(one);
  const Sizes& s = one.sizes;
  // In the last row of the first step: its numbers are NaN, and those of the other rows are not.
  if (one.with_nan)
    a.x[(s.time(0) * s.given_rows + s.given_rows - 1) * s.inputs] = std::numeric_limits<double>::quiet_NaN();
  plain::run(one.cell, s, a);
  plain::Doubles* rights[] = {&a.hs,   &a.h_end, &a.c_end, &a.hs,  &a.d_x, &a.d_wx,
                              &a.d_wh, &a.d_b,   &a.d_bhn, &a.d_h0, &a.d_c0};
  const double allowed = 64 * double(std::numeric_limits<T>::epsilon());
  Found<T> alone = run<T>(one, a, 1), together = run<T>(one, a, 3);
  std::vector<std::vector<T>> firsts;
  int n = 0;
  alone.each([&](const char* what, const std::vector<T>& found) {
    const double error = difference(found, *rights[n++]);
    if (!(error <= allowed)) say_wrong<T>(one, what, error);
    firsts.push_back(found);
  });
  n = 0;
  together.each([&](const char* what, const std::vector<T>& found) {
    const std::vector<T>& first = firsts[n++];
    const auto same = [](T a, T b) { return a == b || (std::isnan(a) && std::isnan(b)); };
    if (!std::equal(found.begin(), found.end(), first.begin(), same)) say_wrong<T>(one, what, 0);
  });
}

Sizes sizes(int64_t T, int64_t B, int64_t D, int64_t H, bool reverse = false, int64_t batches = 1, int64_t groups = 1) {
  return Sizes{T, batches * B, B, D, H, groups, reverse};
}

}  // namespace

int main() {
  int count = 0;
  const auto both = [&](const Case& one) { check<float>(one), check<double>(one), ++count; };
  const int64_t units[] = {1, 2, 7, 8, 9, 16, 17, 33};
  for (const Cell& cell : NAMED(ISA)()->cells) {
    for (int64_t H : units)
      for (int64_t B : {1, 2, 5, 6, 7, 13}) both({cell, sizes(3, B, (H * 5 + B) % 19 + 1, H, B % 2 == 0)});
    for (int64_t T : {1, 2, 37})
      for (bool reverse : {false, true}) both({cell, sizes(T, 3, 4, 5, reverse)});
    both({cell, sizes(1, 1, 1, 1)});
    both({cell, sizes(300, 1, 3, 4)});    // More steps than one sum over time has,
    both({cell, sizes(3, 300, 3, 4, true)});  // more rows,
    both({cell, sizes(5, 60, 130, 70)});  // more of everything than one tile,
    both({cell, sizes(5, 1, 300, 290)});  // and units divided between the threads.
    if (std::string(cell.name) == "lstm" || cell.hidden_bias) both({cell, sizes(4, 3, 5, 9), false, false, false, 1e3});
    for (int64_t H : units) {
      both({cell, sizes(4, 3, 5, H), false, false, true});  // NaN.
      both({cell, sizes(9, 3, 5, H, H % 2 == 0), true});
      // A GRU has no recurrent dropout; what there is in the kernel is that of every cell.
      both({cell, sizes(6, 4, 5, H, H % 2 == 1), H % 3 == 0, true});
      both({cell, sizes(5, 3, 4, H, false, 2, 1), H % 2 == 0});
      both({cell, sizes(40, 2, 4, H, false, 3, 6), H % 2 == 0, H % 3 == 0});
    }
  }
  std::printf("%s: %d cases in both precisions, %d failures\n", NAMED(ISA)()->name, count, failures);
  return failures ? 1 : 0;
}

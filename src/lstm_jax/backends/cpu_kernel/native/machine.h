// Which instruction sets of x86-64 this machine and its operating system have, by CPUID itself: the table behind
// __builtin_cpu_supports stays empty in libraries of Zig's compiler.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

#include <cstdint>

namespace lstm_jax {

struct Machine {
  bool avx2 = false, avx512 = false;  // AVX2 with FMA; AVX-512 with F, DQ and VL.
};

inline Machine this_machine() {
  const auto bit = [](uint32_t word, int n) { return (word >> n & 1) != 0; };
  Machine found;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return found;
  const bool fma = bit(c, 12), asks_system = bit(c, 27);
  if (!asks_system) return found;
  // What the operating system saves when it changes threads: 1, 2 are SSE and AVX, 5 to 7 AVX-512.
  uint32_t saved = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = (saved & 0x06) == 0x06 && fma && bit(b, 5);
  found.avx512 = (saved & 0xe6) == 0xe6 && found.avx2 && bit(b, 16) && bit(b, 17) && bit(b, 31);
  return found;
}

}  // namespace lstm_jax
#endif

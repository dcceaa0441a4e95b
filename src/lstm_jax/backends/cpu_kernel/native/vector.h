// Vectors of the width that this file is compiled for, by the compiler's own vector types: one source for
// AVX-512, AVX2, NEON and plain code. VECTOR_BYTES and ISA (a name) come from the command line.
#pragma once

#include <cstdint>
#include <cstring>

namespace lstm_jax::ISA {

template <typename T>
struct Wide;

template <>
struct Wide<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
};

template <>
struct Wide<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
};

template <typename T>
using Vec = typename Wide<T>::V;

template <typename T>
inline constexpr int kLanes = VECTOR_BYTES / sizeof(T);

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <typename T>
inline Vec<T> all(T value) {
  return value - Vec<T>{};
}

}  // namespace lstm_jax::ISA

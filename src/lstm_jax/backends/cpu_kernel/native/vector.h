// Vectors of the width that this file is compiled for, by the compiler's own vector types: one source for
// AVX-512, AVX2, NEON and plain code. VECTOR_BYTES and ISA (a name) come from the command line.
#pragma once

#include <cstdint>
#include <cstring>

#if VECTOR_BYTES > 16
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

// For what works on a tile: called as a function it would have the tile in memory, at half the speed.
#define LSTM_JAX_INLINE inline __attribute__((always_inline))

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

// a · b + c with one rounding where the instruction set can: for a sum of two products. The compiler may fuse one of
// them here and the other one there, and the same row would have other bits in another tile.
template <typename T>
inline Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  constexpr bool single = sizeof(T) == 4;
#if VECTOR_BYTES == 64
  if constexpr (single)
    return (Vec<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else
    return (Vec<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif VECTOR_BYTES == 32
  if constexpr (single)
    return (Vec<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else
    return (Vec<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__ARM_NEON)
  if constexpr (single)
    return (Vec<T>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  else
    return (Vec<T>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  (void)single;
  return a * b + c;
#endif
}

}  // namespace lstm_jax::ISA

// The logistic function and tanh of a vector, to some units of rounding, from one e^r − 1:
//
//     x = n ln 2 + r,  |r| <= ln 2 / 2          e^x − 1 = 2^n (e^r − 1) + (2^n − 1)
//     sigma(x) = 1 / (1 + e^−x)                  tanh x = (e^2x − 1) / (e^2x + 1)
//
// A NaN stays one; beyond what the exponent holds x is its limit, and so is the result.
#pragma once

#include "vector.h"

namespace lstm_jax::ISA {

template <typename T>
struct Exponent;

template <>
struct Exponent<float> {
  static constexpr float magic = 12582912.0f;  // 1.5 · 2^23: its last bits become the integer n
  static constexpr int shift = 23, degree = 7;
  static constexpr float least = -87.0f, most = 88.0f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};

template <>
struct Exponent<double> {
  static constexpr double magic = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr int shift = 52, degree = 14;
  static constexpr double least = -708.0, most = 709.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
};

// 2^n and e^r − 1 of x.
template <typename T>
inline void split_exponential(Vec<T> x, Vec<T>* power, Vec<T>* less_one) {
  using E = Exponent<T>;
  x = x < E::least ? all<T>(E::least) : x;
  x = x > E::most ? all<T>(E::most) : x;
  const T log2_e = T(1.442695040888963407);
  const Vec<T> shifted = x * log2_e + E::magic;
  const Vec<T> n = shifted - E::magic;
  const Vec<T> r = (x - n * E::ln2_high) - n * E::ln2_low;
  // 1 + r/2 (1 + r/3 (1 + …)), times r.
  Vec<T> sum = all<T>(1);
  for (int k = E::degree; k >= 2; --k) sum = sum * (r * T(1.0 / k)) + T(1);
  *less_one = r * sum;
  typename Wide<T>::Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = bits << E::shift;
  const Vec<T> one = all<T>(1);
  typename Wide<T>::Bits unit;
  std::memcpy(&unit, &one, sizeof unit);
  bits += unit;
  std::memcpy(power, &bits, sizeof bits);
}

template <typename T>
inline Vec<T> sigmoid(Vec<T> x) {
  Vec<T> power, less_one;
  split_exponential<T>(-x, &power, &less_one);
  return T(1) / (T(1) + (power + power * less_one));
}

template <typename T>
inline Vec<T> tanh(Vec<T> x) {
  const Vec<T> size = x < T(0) ? -x : x;
  // Beyond 40 it is 1 in either precision.
  const Vec<T> twice = size > T(40) ? all<T>(80) : size + size;
  Vec<T> power, less_one;
  split_exponential<T>(twice, &power, &less_one);
  const Vec<T> above = power * less_one + (power - T(1));
  const Vec<T> found = above / (above + T(2));
  return x < T(0) ? -found : found;
}

}  // namespace lstm_jax::ISA

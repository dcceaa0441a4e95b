// The elementwise part of each cell: from pre-activations to the state, and from δs_t to δz_t and the part of δs_{t−1}
// that does not pass through W_h. docs/derivation.md has the same symbols.
//
// A block of pre-activations has kWide vectors z[0] … z[3]. x W_x adds to some of them, h W_h to some of them; `gate`
// says which columns of a weight a panel's vectors are. A block has kUnitVectors vectors of units.
#pragma once

#include "activations.h"
#include "product.h"

namespace lstm_jax::ISA {

// The vectors of a panel: [kFirst, kFirst + kCount) of the block, of the weight's gates kGates.
template <int kFirstVector, int... kGateOrder>
struct Panel {
  static constexpr int kFirst = kFirstVector, kCount = sizeof...(kGateOrder);
  static constexpr int gate(int v) {
    constexpr int order[] = {kGateOrder...};
    return order[v];
  }
};

// Of cells whose h_{t−1} acts through W_h in one product.
struct OneProduct {
  static constexpr bool kResetsBefore = false;
  using FromReset = Panel<0>;
};

//     i, f, o = σ(z_i), σ(z_f), σ(z_o);   g = tanh(z_g);   C_t = f ⊙ C_{t−1} + i ⊙ g;   h_t = o ⊙ tanh C_t
//
//     δC_t += δh_t ⊙ o ⊙ (1 − tanh² C_t)       δz_o = δh_t ⊙ tanh C_t ⊙ o (1 − o)
//     δz_i = δC_t ⊙ g ⊙ i (1 − i)              δz_f = δC_t ⊙ C_{t−1} ⊙ f (1 − f)       δz_g = δC_t ⊙ i ⊙ (1 − g²)
//     δC_{t−1} = δC_t ⊙ f
template <typename T>
struct LstmCell : OneProduct {
  using Number = T;
  using V = Vec<T>;
  using FromX = Panel<0, 0, 1, 2, 3>;
  using FromH = Panel<0, 0, 1, 2, 3>;
  using Bias = Panel<0, 0, 1, 2, 3>;
  static constexpr int kGates = 4, kUnitVectors = 1, kKept = 5;  // i, f, g, o, C_t as it passes on
  static constexpr bool kMemory = true, kHiddenBias = false;

  static void forward(const V (&z)[kWide], const V*, V c_before, V* h, V* c, T* kept) {
    const V in = sigmoid<T>(z[0]), forget = sigmoid<T>(z[1]), candidate = tanh<T>(z[2]), out = sigmoid<T>(z[3]);
    *c = fma<T>(forget, c_before, in * candidate);
    *h = out * tanh<T>(*c);
    if (kept == nullptr) return;
    store_all(kept, in, forget, candidate, out);
  }

  // C_t is what the step itself gave: where the state passes on or keeps its value, nothing comes through here.
  static void backward(const T* kept, const V*, const V*, V c_before, V* d_h, V* d_c, V (&d_z)[kWide]) {
    const V in = load(kept), forget = load(kept + kLanes<T>), candidate = load(kept + 2 * kLanes<T>);
    const V out = load(kept + 3 * kLanes<T>), squashed = tanh<T>(fma<T>(forget, c_before, in * candidate)), one = all<T>(1);
    const V d_cell = fma<T>(*d_h * out, one - squashed * squashed, *d_c);
    d_z[0] = d_cell * candidate * in * (one - in);
    d_z[1] = d_cell * c_before * forget * (one - forget);
    d_z[2] = d_cell * in * (one - candidate * candidate);
    d_z[3] = *d_h * squashed * out * (one - out);
    *d_h = V{};
    *d_c = d_cell * forget;
  }

  static void store_all(T* kept, V a, V b, V c, V d) {
    store(kept, a);
    store(kept + kLanes<T>, b);
    store(kept + 2 * kLanes<T>, c);
    store(kept + 3 * kLanes<T>, d);
  }
};

//     r, u = σ(z_r), σ(z_u);   a_t = h_{t−1} W_hn + b_hn;   n = tanh(z_n + r ⊙ a_t);   h_t = (1 − u) ⊙ n + u ⊙ h_{t−1}
//
//     δz_n = δh_t ⊙ (1 − u) ⊙ (1 − n²)    δa = δz_n ⊙ r    δz_r = δz_n ⊙ a_t ⊙ r (1 − r)
//     δz_u = δh_t ⊙ (h_{t−1} − n) ⊙ u (1 − u)              δh_{t−1} = δh_t ⊙ u, and the rest through W_h
//
// A block is z_n, z_r, z_u, a: x adds to the first three, h to the last three.
template <typename T>
struct GruCell : OneProduct {
  using Number = T;
  using V = Vec<T>;
  using FromX = Panel<0, 2, 0, 1>;
  using FromH = Panel<1, 0, 1, 2>;
  using Bias = FromX;  // The fourth vector is b_hn.
  static constexpr int kGates = 3, kUnitVectors = 1, kKept = 4;  // r, u, n, a
  static constexpr bool kMemory = false, kHiddenBias = true;

  static void forward(const V (&z)[kWide], const V* h_before, V, V* h, V*, T* kept) {
    const V r = sigmoid<T>(z[1]), u = sigmoid<T>(z[2]), n = tanh<T>(fma<T>(r, z[3], z[0]));
    *h = fma<T>(u, *h_before, (all<T>(1) - u) * n);
    if (kept != nullptr) LstmCell<T>::store_all(kept, r, u, n, z[3]);
  }

  static void backward(const T* kept, const V*, const V* h_before, V, V* d_h, V*, V (&d_z)[kWide]) {
    const V r = load(kept), u = load(kept + kLanes<T>), n = load(kept + 2 * kLanes<T>), a = load(kept + 3 * kLanes<T>);
    const V one = all<T>(1);
    d_z[0] = *d_h * (one - u) * (one - n * n);
    d_z[1] = d_z[0] * a * r * (one - r);
    d_z[2] = *d_h * (*h_before - n) * u * (one - u);
    d_z[3] = d_z[0] * r;
    *d_h = *d_h * u;
  }
};

//     r, u = σ(z_r), σ(z_u);   a_t = r ⊙ h_{t−1};   n = tanh(z_n), a_t through W_hn;   h_t = (1 − u) ⊙ n + u ⊙ h_{t−1}
//
//     δz_n = δh_t ⊙ (1 − u) ⊙ (1 − n²)                     δz_u = δh_t ⊙ (h_{t−1} − n) ⊙ u (1 − u)
//     δa_t = δz_n W_hnᵀ,   δz_r = δa_t ⊙ h_{t−1} ⊙ r (1 − r)    δh_{t−1} = δh_t ⊙ u + δa_t ⊙ r, and the rest through W_h
//
// A block is z_n, z_r, z_u: h adds to the last two, and then a to the first.
template <typename T>
struct ResetBeforeGruCell {
  using Number = T;
  using V = Vec<T>;
  using FromX = Panel<0, 2, 0, 1>;
  using FromH = Panel<1, 0, 1>;
  using FromReset = Panel<0, 2>;
  using Bias = FromX;
  static constexpr int kGates = 3, kUnitVectors = 1, kKept = 3;  // r, u, n
  static constexpr bool kMemory = false, kHiddenBias = false, kResetsBefore = true;

  // a_t; r and u into `gates`.
  static V reset(const V (&z)[kWide], V h_before, T* gates) {
    const V r = sigmoid<T>(z[1]);
    store(gates, r);
    store(gates + kLanes<T>, sigmoid<T>(z[2]));
    return r * h_before;
  }

  static V update(V z, V h_before, const T* gates, T* kept) {
    const V u = load(gates + kLanes<T>), n = tanh<T>(z);
    if (kept != nullptr) store(kept, load(gates)), store(kept + kLanes<T>, u), store(kept + 2 * kLanes<T>, n);
    return fma<T>(u, h_before, (all<T>(1) - u) * n);
  }

  // All but δz_r, which waits for δa_t.
  static void backward(const T* kept, const V*, const V* h_before, V, V* d_h, V*, V (&d_z)[kWide]) {
    const V u = load(kept + kLanes<T>), n = load(kept + 2 * kLanes<T>), one = all<T>(1);
    d_z[0] = *d_h * (one - u) * (one - n * n);
    d_z[1] = V{};
    d_z[2] = *d_h * (*h_before - n) * u * (one - u);
    d_z[3] = V{};
    *d_h = *d_h * u;
  }

  static V backward_reset(const T* kept, V h_before, V d_a, V* d_h) {
    const V r = load(kept);
    *d_h = fma<T>(d_a, r, *d_h);
    return d_a * h_before * r * (all<T>(1) - r);
  }
};

enum class Phi { kTanh, kRelu, kIdentity };

//     h_t = φ(z_t);   δz_t = δh_t ⊙ φ'(z_t), with φ' written in terms of h_t
template <typename T, Phi kPhi>
struct RnnCell : OneProduct {
  using Number = T;
  using V = Vec<T>;
  using FromX = Panel<0, 0, 0, 0, 0>;
  using FromH = FromX;
  using Bias = FromX;
  static constexpr int kGates = 1, kUnitVectors = kWide, kKept = 0;  // h_t itself is in hs.
  static constexpr bool kMemory = false, kHiddenBias = false;

  static void forward(const V (&z)[kWide], const V*, V, V* h, V*, T*) {
    for (int v = 0; v < kWide; ++v) {
      if constexpr (kPhi == Phi::kTanh) h[v] = tanh<T>(z[v]);
      if constexpr (kPhi == Phi::kRelu) h[v] = z[v] < T(0) ? V{} : z[v];
      if constexpr (kPhi == Phi::kIdentity) h[v] = z[v];
    }
  }

  static void backward(const T*, const V* h, const V*, V, V* d_h, V*, V (&d_z)[kWide]) {
    for (int v = 0; v < kWide; ++v) {
      if constexpr (kPhi == Phi::kTanh) d_z[v] = d_h[v] * (all<T>(1) - h[v] * h[v]);
      if constexpr (kPhi == Phi::kRelu) d_z[v] = d_h[v] * (h[v] > T(0) ? all<T>(1) : V{});
      if constexpr (kPhi == Phi::kIdentity) d_z[v] = d_h[v];
      d_h[v] = V{};
    }
  }
};

}  // namespace lstm_jax::ISA

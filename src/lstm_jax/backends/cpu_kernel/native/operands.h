// The arrays of a call from XLA, each checked for its dtype and shape before anything reads it.
#pragma once

#include <algorithm>
#include <exception>
#include <string>
#include <type_traits>

#include "huge_pages.h"
#include "table.h"
#include "xla/ffi/api/ffi.h"

namespace lstm_jax {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;

// What is wrong with the arrays of a call; the message says what was expected and what came.
struct WrongArrays : std::exception {
  explicit WrongArrays(const std::string& what) : text("Array mismatch in the CPU kernel: " + what) {}
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};

template <typename T>
std::string joined(const T& sizes) {
  std::string text = "[";
  for (int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

template <typename N>
inline constexpr ffi::DataType kDtype = ffi::DataType::INVALID;
template <>
inline constexpr ffi::DataType kDtype<float> = ffi::DataType::F32;
template <>
inline constexpr ffi::DataType kDtype<double> = ffi::DataType::F64;
template <>
inline constexpr ffi::DataType kDtype<uint8_t> = ffi::DataType::U8;

// One array for each network, or one for all of them: [networks or 1, ...].
template <typename N>
struct PerNetwork {
  N* data = nullptr;  // Null where there is none.
  int64_t stride = 0;

  N* of(int64_t network) const { return data == nullptr ? nullptr : data + network * stride; }
};

// Of a call: how many networks, the groups of their rows, and the direction.
struct Options {
  int64_t networks, groups;
  bool reverse;
};

// Arrays of a call by their numbers, each checked for its dtype and shape.
class Arrays {
 public:
  Arrays(const ffi::RemainingArgs& args, const ffi::RemainingRets& rets) : args_(args), rets_(rets) {}

  Buffer argument(size_t index) const {
    auto found = args_.get<Buffer>(index);
    if (!found.has_value()) throw WrongArrays("expected argument " + std::to_string(index) + ", got none.");
    return *found;
  }

  template <typename N>
  PerNetwork<const N> take(size_t index, std::initializer_list<int64_t> shape, bool may_be_empty = false) const {
    return checked<const N>(argument(index), "argument " + std::to_string(index), shape, false, may_be_empty);
  }

  template <typename N>
  PerNetwork<N> give(size_t index, std::initializer_list<int64_t> shape, bool may_be_empty = false) const {
    auto found = rets_.get<Buffer>(index);
    if (!found.has_value()) throw WrongArrays("expected result " + std::to_string(index) + ", got none.");
    return checked<N>(**found, "result " + std::to_string(index), shape, true, may_be_empty);
  }

  int64_t networks = 1;

 private:
  template <typename N>
  PerNetwork<N> checked(Buffer buffer, const std::string& name, std::initializer_list<int64_t> shape, bool of_each,
                        bool may_be_empty) const {
    if (may_be_empty && buffer.element_count() == 0) return {};
    const auto dims = buffer.dimensions();
    const bool shaped = dims.size() == shape.size() + 1 && std::equal(shape.begin(), shape.end(), dims.begin() + 1) &&
                        (dims[0] == networks || (dims[0] == 1 && !of_each));
    if (!shaped) throw WrongArrays("expected " + name + " as [networks] and " + joined(shape) + ", got " + joined(dims) + ".");
    if (buffer.element_type() != kDtype<std::remove_const_t<N>>)
      throw WrongArrays("expected another dtype of " + name + ".");
    const int64_t each = int64_t(buffer.element_count()) / dims[0];
    if constexpr (!std::is_const_v<N>) in_huge_pages(buffer.untyped_data(), int64_t(buffer.size_bytes()));
    return {buffer.typed_data<std::remove_const_t<N>>(), dims[0] == 1 ? 0 : each};
  }

  const ffi::RemainingArgs& args_;
  const ffi::RemainingRets& rets_;
};

// What both passes read: the first eleven arguments.
template <typename T>
struct Given {
  const Options options;
  Sizes sizes;
  PerNetwork<const T> x, w_x, w_h, b, b_hn, h0, c0, dropout;
  PerNetwork<const uint8_t> marks, keeps_h, keeps_c;

  Given(Arrays& arrays, const Cell& cell, const Options& options) : options(options) {
    const auto x_shape = arrays.argument(0).dimensions(), w_shape = arrays.argument(2).dimensions();
    if (x_shape.size() != 4 || w_shape.size() != 3) throw WrongArrays("expected x [networks, T, B, D] and w_h, got others.");
    const int64_t T_ = x_shape[1], B = x_shape[2], D = x_shape[3], H = w_shape[1], Z = cell.gates * H;
    if (T_ < 1 || B < 1 || D < 1 || H < 1 || options.networks < 1)
      throw WrongArrays("expected positive sizes, got x " + joined(x_shape) + ", w_h " + joined(w_shape) + ".");
    sizes = Sizes{T_, B, B, D, H, 1, options.reverse};
    arrays.networks = options.networks;
    x = arrays.take<T>(0, {T_, B, D});
    w_x = arrays.take<T>(1, {D, Z});
    w_h = arrays.take<T>(2, {H, Z});
    b = arrays.take<T>(3, {Z});
    b_hn = arrays.take<T>(4, {H}, !cell.hidden_bias);
    h0 = arrays.take<T>(5, {B, H});
    c0 = arrays.take<T>(6, {B, H}, !cell.memory);
    marks = arrays.take<uint8_t>(7, {T_, B}, true);
    keeps_h = arrays.take<uint8_t>(8, {T_, B, H}, true);
    keeps_c = arrays.take<uint8_t>(9, {T_, B, H}, !(cell.memory && keeps_h.data != nullptr));
    dropout = arrays.take<T>(10, {T_, B, H}, true);
  }

  Inputs<T> of(int64_t n) const {
    return {x.of(n), w_x.of(n), w_h.of(n), b.of(n), b_hn.of(n), h0.of(n), c0.of(n),
            {marks.of(n), keeps_h.of(n), keeps_c.of(n), dropout.of(n)}};
  }
  // Numbers of a network's residuals.
  int64_t kept(const Cell& cell) const { return sizes.steps * sizes.rows * cell.kept * padded_units(sizes.units); }
};

}  // namespace lstm_jax

// Memory of a call: aligned, kept for the next call on the same thread, because fresh pages cost more than the
// work on them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace lstm_jax {

class Memory {
 public:
  ~Memory() { std::free(start_); }

  // Throws std::bad_alloc where there is not as much.
  void reserve(int64_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    std::free(start_);
    size_ = 0;
    const int64_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
    start_ = static_cast<char*>(std::aligned_alloc(kAlign, rounded));
    if (start_ == nullptr) throw std::bad_alloc();
    size_ = rounded;
  }

  template <typename T>
  T* take(int64_t count) {
    T* found = reinterpret_cast<T*>(start_ + used_);
    used_ += bytes<T>(count);
    return found;
  }

  template <typename T>
  static int64_t bytes(int64_t count) {
    return (count * int64_t(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
  }

 private:
  static constexpr int64_t kAlign = 64;
  char* start_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

}  // namespace lstm_jax

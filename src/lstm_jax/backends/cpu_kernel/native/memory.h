// Memory of a call: aligned, kept for the next call on the same thread up to some size, because fresh pages cost more
// than the work on them.
#pragma once

#include <cstdint>
#include <new>

namespace lstm_jax {

class Memory {
 public:
  ~Memory() { release(); }

  // Throws std::bad_alloc where there is not as much.
  void reserve(int64_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    release();
    start_ = nullptr;
    size_ = 0;
    const int64_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
    start_ = static_cast<char*>(::operator new(rounded, std::align_val_t(kAlign)));
    size_ = rounded;
  }

  // Gives back, at its end, what is too much to be kept between calls.
  struct Lease {
    Memory& memory;
    ~Lease() {
      if (memory.size_ <= kKept) return;
      memory.release();
      memory.start_ = nullptr;
      memory.size_ = 0;
    }
  };

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
  void release() { ::operator delete(start_, std::align_val_t(kAlign)); }

  static constexpr int64_t kAlign = 64, kKept = int64_t(64) << 20;
  char* start_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

}  // namespace lstm_jax

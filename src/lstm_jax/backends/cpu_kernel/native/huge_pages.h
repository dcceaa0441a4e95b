// Large results in large pages: memory that XLA takes afresh for every call, and that the system clears page by page
// when it is first written, took a tenth of the time of a gradient.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lstm_jax {

// Asks for large pages inside of an array, for those of its pages that are not there yet; where there are none, nothing
// happens.
inline void in_huge_pages(void* array, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(2) << 20;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(array) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(array) + uintptr_t(bytes)) / kPage * kPage;
  if (array != nullptr && end > start + kPage) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)array, (void)bytes;
#endif
}

}  // namespace lstm_jax
